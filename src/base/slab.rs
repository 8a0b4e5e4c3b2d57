//! A table of values by keys that it gives itself: a value takes its size and a few bytes, where an
//! ordered map takes nearly twice that when keys come in order.

/// Values by key. A key is never given twice, so an old one finds nothing.
#[derive(Clone, Debug)]
pub struct Slab<T> {
    /// All full but the last. In one piece it would move when it grows, and leave holes.
    pages: Vec<Vec<Slot<T>>>,
    free: Vec<u32>,
}

/// Values of a page.
const PAGE: usize = 64;

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
            pages: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Enters a value; gives its key, or the value back when there are four thousand millions.
    pub fn insert(&mut self, value: T) -> Result<u64, T> {
        let Some(at) = self.free.pop().or_else(|| self.add_slot()) else {
            return Err(value);
        };
        let Some(slot) = self.slot_mut(index(at)) else {
            return Err(value);
        };
        slot.value = Some(value);
        Ok(u64::from(slot.life) << 32 | u64::from(at))
    }

    /// The value of a key.
    pub fn get(&self, key: u64) -> Option<&T> {
        let (life, at) = parts(key);
        let slot = self.pages.get(at / PAGE)?.get(at % PAGE)?;
        slot.value.as_ref().filter(|_| slot.life == life)
    }

    /// The value of a key.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let (life, at) = parts(key);
        let slot = self.slot_mut(at).filter(|slot| slot.life == life)?;
        slot.value.as_mut()
    }

    fn slot_mut(&mut self, at: usize) -> Option<&mut Slot<T>> {
        self.pages.get_mut(at / PAGE)?.get_mut(at % PAGE)
    }

    /// Takes out the value of a key.
    pub fn remove(&mut self, key: u64) -> Option<T> {
        let (life, at) = parts(key);
        let slot = self.slot_mut(at).filter(|slot| slot.life == life)?;
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
        let slots = self.pages.iter().flatten();
        slots.filter(|slot| slot.value.is_some()).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn add_slot(&mut self) -> Option<u32> {
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        let before = (self.pages.len() - 1) * PAGE;
        let page = self.pages.last_mut()?;
        let at = u32::try_from(before + page.len()).ok()?;
        page.push(Slot {
            life: 0,
            value: None,
        });
        Some(at)
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
        assert_eq!(slab.pages[0].len(), 2, "the place was used again");
    }

    #[test]
    fn many_values_are_found_and_few_places_are_empty() {
        let mut slab = Slab::new();
        let keys: Vec<u64> = (0..1000)
            .map(|number| slab.insert(number).unwrap())
            .collect();
        assert!((0..1000).all(|number| slab.get(keys[number]) == Some(&number)));
        let places: usize = slab.pages.iter().map(Vec::capacity).sum();
        assert!(places < 1000 + PAGE);
    }
}
