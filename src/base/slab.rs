//! A table of values by keys that it gives itself: a value takes its size and a few bytes, where an
//! ordered map takes nearly twice that when keys come in order.

/// Values by key. A key is never given twice, so an old one finds nothing.
#[derive(Clone, Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Slot<T> {
    /// How many values were here before.
    life: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slab<T> {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Enters a value; gives its key, or the value back when there are four thousand millions.
    pub fn insert(&mut self, value: T) -> Result<u64, T> {
        if self.free.is_empty() {
            let Ok(at) = u32::try_from(self.slots.len()) else {
                return Err(value);
            };
            self.add_slot();
            self.free.push(at);
        }
        let Some((at, slot)) = self.free.pop().and_then(|at| {
            let slot = self.slots.get_mut(index(at))?;
            Some((at, slot))
        }) else {
            return Err(value);
        };
        slot.value = Some(value);
        Ok(u64::from(slot.life) << 32 | u64::from(at))
    }

    /// The value of a key.
    pub fn get(&self, key: u64) -> Option<&T> {
        let (life, at) = parts(key);
        let slot = self.slots.get(at).filter(|slot| slot.life == life)?;
        slot.value.as_ref()
    }

    /// The value of a key.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let (life, at) = parts(key);
        let slot = self.slots.get_mut(at).filter(|slot| slot.life == life)?;
        slot.value.as_mut()
    }

    /// Takes out the value of a key.
    pub fn remove(&mut self, key: u64) -> Option<T> {
        let (life, at) = parts(key);
        let slot = self.slots.get_mut(at).filter(|slot| slot.life == life)?;
        let value = slot.value.take()?;
        // A slot whose lives are used up stays empty.
        if let Some(next) = slot.life.checked_add(1) {
            slot.life = next;
            self.free.extend(u32::try_from(at));
        }
        Some(value)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.value.is_some())
            .count()
    }

    fn add_slot(&mut self) {
        // Doubling would leave up to half of it unused.
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(self.slots.len() / 8 + 16);
        }
        self.slots.push(Slot {
            life: 0,
            value: None,
        });
    }
}

/// Which life of which slot a key means.
fn parts(key: u64) -> (u32, usize) {
    let [a, b, c, d, e, f, g, h] = key.to_be_bytes();
    let at = u32::from_be_bytes([e, f, g, h]);
    (u32::from_be_bytes([a, b, c, d]), index(at))
}

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_key_and_an_old_key_finds_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert('a').unwrap();
        let second = slab.insert('b').unwrap();
        assert_eq!(
            (slab.get(first), slab.get(second)),
            (Some(&'a'), Some(&'b'))
        );

        assert_eq!(slab.remove(first), Some('a'));
        let third = slab.insert('c').unwrap();

        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        *slab.get_mut(third).unwrap() = 'd';
        assert_eq!((slab.remove(third), slab.len()), (Some('d'), 1));
        assert_eq!(slab.slots.len(), 2, "the place was used again");
    }

    #[test]
    fn a_table_of_many_has_few_empty_places() {
        let mut slab = Slab::new();
        for number in 0..10_000_u64 {
            slab.insert(number).unwrap();
        }
        assert!(slab.slots.capacity() <= 10_000 * 9 / 8 + 16);
    }
}
