//! Pending bits: which messages of a chunk a stream has not settled.

/// A set of message numbers of one chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// Bytes that each message counts as: the mean of the first ones.
    pub mean: u32,
    /// Bit `i % 8` of byte `i / 8` is message `i`; the last byte is not zero.
    bytes: Vec<u8>,
}

impl Row {
    /// Reads the output of [`Row::to_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let (mean, bits) = bytes.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let mut row = Self { mean: u32::from_le_bytes(*mean), bytes: bits.to_vec() };
        row.trim();
        row
    }

    /// The number of bits in the output of [`Row::to_bytes`].
    pub(crate) fn count(bytes: &[u8]) -> u64 {
        bytes.iter().skip(4).map(|bits| u64::from(bits.count_ones())).sum()
    }

    /// Its stored form: the mean, little endian, and the bits.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + self.bytes.len());
        bytes.extend_from_slice(&self.mean.to_le_bytes());
        bytes.extend_from_slice(&self.bytes);
        bytes
    }

    /// Sets the mean; `bytes` are those of all its messages together.
    pub(crate) fn weigh(&mut self, bytes: usize) {
        let messages = (self.len() as usize).max(1);
        self.mean = u32::try_from(bytes.div_ceil(messages)).unwrap_or(u32::MAX);
    }

    pub(crate) fn insert(&mut self, index: u32) {
        let (byte, bit) = place(index);
        if self.bytes.len() <= byte {
            self.bytes.resize(byte + 1, 0);
        }
        if let Some(bits) = self.bytes.get_mut(byte) {
            *bits |= bit;
        }
    }

    /// True: the bit was set.
    pub(crate) fn remove(&mut self, index: u32) -> bool {
        let (byte, bit) = place(index);
        let Some(bits) = self.bytes.get_mut(byte) else { return false };
        let was_in = *bits & bit != 0;
        *bits &= !bit;
        self.trim();
        was_in
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        let (byte, bit) = place(index);
        self.bytes.get(byte).is_some_and(|bits| bits & bit != 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn len(&self) -> u32 {
        self.bytes.iter().map(|bits| bits.count_ones()).sum()
    }

    /// The numbers, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.bytes).flat_map(|(byte, bits)| {
            (0..8).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| byte * 8 + bit)
        })
    }

    fn trim(&mut self) {
        let used = self.bytes.iter().rposition(|bits| *bits != 0).map_or(0, |last| last + 1);
        self.bytes.truncate(used);
    }
}

fn place(index: u32) -> (usize, u8) {
    (index as usize / 8, 1 << (index % 8))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn row_is_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..40), 0..60)) {
            let mut row = Row::default();
            let mut model = BTreeSet::new();
            for (insert, index) in steps {
                if insert {
                    row.insert(index);
                    model.insert(index);
                } else {
                    prop_assert_eq!(row.remove(index), model.remove(&index));
                }
                prop_assert!(row.iter().eq(model.iter().copied()));
                prop_assert_eq!(row.len() as usize, model.len());
                prop_assert_eq!(row.is_empty(), model.is_empty());
                prop_assert_eq!(row.contains(index), model.contains(&index));
                prop_assert_eq!(&Row::from_bytes(&row.to_bytes()), &row);
                prop_assert_eq!(Row::count(&row.to_bytes()), u64::from(row.len()));
            }
        }
    }
}
