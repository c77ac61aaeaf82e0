//! Numbers as the bytes that ranks exchange: little-endian, without names or lengths but for those of lists.

/// Writes them.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn count(&mut self, count: usize) {
        self.0.extend((count as u64).to_le_bytes());
    }

    pub(super) fn float(&mut self, number: f32) {
        self.0.extend(number.to_le_bytes());
    }

    /// A list with its length before it.
    pub(super) fn floats(&mut self, numbers: &[f32]) {
        self.count(numbers.len());
        self.0.reserve(size_of_val(numbers));
        numbers.iter().for_each(|number| self.float(*number));
    }
}

/// Reads them in the same order; none where there are no more.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn count(&mut self) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.bytes()?)).ok()
    }

    pub(super) fn float(&mut self) -> Option<f32> {
        self.bytes().map(f32::from_le_bytes)
    }

    pub(super) fn floats(&mut self) -> Option<Vec<f32>> {
        let (bytes, rest) =
            self.count()?.checked_mul(size_of::<f32>()).and_then(|n| self.0.split_at_checked(n))?;
        self.0 = rest;
        Some(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Whether all was read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_in_their_order() {
        let mut written = Writer::default();
        written.count(7);
        written.float(f32::NAN);
        written.floats(&[1.5, f32::INFINITY]);
        let mut read = Reader(&written.0);
        assert_eq!(read.count(), Some(7));
        assert!(read.float().is_some_and(f32::is_nan));
        assert_eq!(read.floats(), Some(vec![1.5, f32::INFINITY]));
        assert!(read.is_empty() && read.count().is_none());
    }

    #[test]
    fn a_length_beyond_the_end_is_no_list() {
        for count in [3, usize::MAX] {
            let mut written = Writer::default();
            written.count(count);
            written.float(1.0);
            assert_eq!(Reader(&written.0).floats(), None);
        }
    }
}
