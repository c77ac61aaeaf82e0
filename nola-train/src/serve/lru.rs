//! What was used last, up to a number of bytes.

use std::collections::{BTreeMap, HashMap};

/// Values by number, of which those that were not used for the longest time leave first.
#[derive(Debug)]
pub struct Lru<V> {
    limit_bytes: u64,
    entries: HashMap<u64, Entry<V>>,
    /// Which of them was used when; times are counted.
    by_use: BTreeMap<u64, u64>,
    /// What entries have in common: how many of them have it, and its bytes.
    shared: HashMap<usize, (usize, u64)>,
    bytes: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    size: Size,
    last_used: u64,
}

/// Bytes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Of its own.
    pub own: u64,
    /// Of what it has in common with others, which counts once: something that tells it, and its bytes.
    pub shared: Option<(usize, u64)>,
}

impl<V> Lru<V> {
    /// Nothing yet, and at most so many bytes.
    pub fn new(limit_bytes: u64) -> Self {
        let (entries, shared) = (HashMap::new(), HashMap::new());
        Self { limit_bytes, entries, by_use: BTreeMap::new(), shared, bytes: 0, clock: 0 }
    }

    /// A value, which is used now.
    pub fn get(&mut self, key: u64) -> Option<&V> {
        let entry = self.entries.get_mut(&key)?;
        self.clock += 1;
        self.by_use.remove(&entry.last_used);
        self.by_use.insert(self.clock, key);
        entry.last_used = self.clock;
        Some(&entry.value)
    }

    /// Takes a value, which is used now, in the place of others; those of which `is_held` says so stay, so for a while there may be
    /// more than is allowed.
    pub fn insert(&mut self, key: u64, value: V, size: Size, is_held: impl Fn(&V) -> bool) {
        self.remove(key);
        self.make_room(self.added_by(size), is_held);
        self.bytes += self.added_by(size);
        if let Some((id, bytes)) = size.shared {
            self.shared.entry(id).or_insert((0, bytes)).0 += 1;
        }
        self.clock += 1;
        self.by_use.insert(self.clock, key);
        self.entries.insert(key, Entry { value, size, last_used: self.clock });
    }

    /// Lets go of what is beyond the limit, unless `is_held` says that it is in use.
    pub fn trim(&mut self, is_held: impl Fn(&V) -> bool) {
        self.make_room(0, is_held);
    }

    /// Entries in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// By how many bytes an entry would make it larger.
    fn added_by(&self, size: Size) -> u64 {
        let shared = size.shared.filter(|(id, _)| !self.shared.contains_key(id));
        size.own + shared.map_or(0, |(_, bytes)| bytes)
    }

    fn make_room(&mut self, bytes: u64, is_held: impl Fn(&V) -> bool) {
        while self.bytes + bytes > self.limit_bytes {
            let mut oldest = self.by_use.values().copied();
            let Some(key) = oldest.find(|key| !is_held(&self.entries[key].value)) else { return };
            self.remove(key);
        }
    }

    fn remove(&mut self, key: u64) {
        let Some(entry) = self.entries.remove(&key) else { return };
        self.by_use.remove(&entry.last_used);
        self.bytes -= entry.size.own;
        let Some((id, bytes)) = entry.size.shared else { return };
        let (count, _) = self.shared.get_mut(&id).expect("it was counted");
        *count -= 1;
        if *count == 0 {
            self.shared.remove(&id);
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(own: u64) -> Size {
        Size { own, shared: None }
    }

    fn keys<V>(lru: &Lru<V>) -> Vec<u64> {
        let mut keys: Vec<u64> = lru.entries.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_leaves_first() {
        let mut lru = Lru::new(30);
        (1..=3).for_each(|key| lru.insert(key, (), own(10), |()| false));
        assert!(lru.get(1).is_some());
        lru.insert(4, (), own(10), |()| false);
        assert_eq!((keys(&lru), lru.bytes()), (vec![1, 3, 4], 30));
        lru.insert(5, (), own(25), |()| false);
        assert_eq!((keys(&lru), lru.bytes()), (vec![5], 25));
        assert!(lru.get(1).is_none());
    }

    #[test]
    fn what_is_in_use_stays_until_it_is_not() {
        let mut lru = Lru::new(20);
        (1..=3).for_each(|key| lru.insert(key, key, own(10), |&key| key == 1));
        assert_eq!(keys(&lru), [1, 3]);
        lru.insert(4, 4, own(30), |&key| key == 1);
        assert_eq!((keys(&lru), lru.bytes()), (vec![1, 4], 40));
        lru.trim(|_| false);
        assert_eq!((keys(&lru), lru.bytes()), (vec![], 0));
    }

    #[test]
    fn what_entries_have_in_common_counts_once() {
        let mut lru = Lru::new(100);
        let of = |id| Size { own: 1, shared: Some((id, 50)) };
        (1..=3).for_each(|key| lru.insert(key, (), of(7), |()| false));
        assert_eq!(lru.bytes(), 53);
        lru.insert(4, (), of(8), |()| false);
        assert_eq!((keys(&lru), lru.bytes()), (vec![4], 51), "the others' factors were in the way");
    }

    #[test]
    fn an_entry_that_comes_again_takes_its_own_place() {
        let mut lru = Lru::new(20);
        lru.insert(1, "old", own(10), |_| false);
        lru.insert(1, "new", own(20), |_| false);
        assert_eq!((lru.len(), lru.bytes(), lru.get(1)), (1, 20, Some(&"new")));
    }
}
