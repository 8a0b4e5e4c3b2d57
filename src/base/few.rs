//! A list that has one element nearly always: that one is in place, without an allocation of its
//! own. What is kept of each idle device consists of such lists.

use std::slice;

/// Any number of elements; none and one cost nothing beside the list.
#[derive(Clone, Debug, Default)]
pub enum Few<T> {
    /// No element.
    #[default]
    None,
    /// One.
    One(T),
    /// Mostly two or more.
    Many(Vec<T>),
}

impl<T> Few<T> {
    /// The elements, oldest first.
    pub const fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(one) => slice::from_ref(one),
            Self::Many(many) => many.as_slice(),
        }
    }

    /// The elements, oldest first.
    pub const fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(one) => slice::from_mut(one),
            Self::Many(many) => many.as_mut_slice(),
        }
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, oldest first.
    #[expect(
        clippy::iter_without_into_iter,
        reason = "nobody loops over one by itself"
    )]
    pub fn iter(&self) -> slice::Iter<'_, T> {
        self.as_slice().iter()
    }

    /// The elements, oldest first.
    #[expect(
        clippy::iter_without_into_iter,
        reason = "nobody loops over one by itself"
    )]
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, T> {
        self.as_mut_slice().iter_mut()
    }

    /// Puts one behind the others; no more room is taken than for that.
    pub fn push(&mut self, value: T) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(value),
            Self::One(one) => Self::Many(vec![one, value]),
            Self::Many(mut many) => {
                many.reserve_exact(1);
                many.push(value);
                Self::Many(many)
            }
        }
    }

    /// Takes out the one at a place, if there is one.
    pub fn remove(&mut self, at: usize) -> Option<T> {
        match std::mem::take(self) {
            Self::One(one) if at == 0 => Some(one),
            Self::Many(mut many) if at < many.len() => {
                let removed = many.remove(at);
                *self = Self::of(many);
                Some(removed)
            }
            unchanged => {
                *self = unchanged;
                None
            }
        }
    }

    /// Leaves only those that are to stay.
    pub fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        match self {
            Self::None => {}
            Self::One(one) => {
                if !stays(one) {
                    *self = Self::None;
                }
            }
            Self::Many(many) => {
                many.retain(stays);
                *self = Self::of(std::mem::take(many));
            }
        }
    }

    fn of(mut many: Vec<T>) -> Self {
        if many.len() > 1 {
            return Self::Many(many);
        }
        many.pop().map_or(Self::None, Self::One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_keep_their_order_and_one_is_always_in_place() {
        let mut few = Few::default();
        assert!(few.is_empty() && few.remove(0).is_none());
        for value in 1..=4 {
            few.push(value);
        }
        assert_eq!(few.as_slice(), [1, 2, 3, 4]);
        assert_eq!((few.remove(1), few.remove(3)), (Some(2), None));
        few.retain(|value| *value == 4);
        assert!(matches!(few, Few::One(4)));
        few.iter_mut().for_each(|value| *value += 1);
        assert_eq!(few.as_slice(), [5]);
        assert_eq!((few.remove(1), few.remove(0)), (None, Some(5)));
        assert!(matches!(few, Few::None));
        few.push(6);
        few.retain(|_| false);
        assert_eq!(few.len(), 0);
    }
}
