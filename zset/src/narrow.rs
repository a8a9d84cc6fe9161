//! Integers stored at the least width: a base, and for each value its distance from that in 1, 2, 4 or 8 bytes.
//!
//! Counts, keys, amounts and epochs of a block lie close together; what isn't written need not be copied, checked or read.

use arrow::buffer::{Buffer, MutableBuffer};

/// An integer of a column: its bits, taken as signed.
pub(crate) trait Integer: Copy + Ord {
    /// `self - base`, if that is not negative and fits.
    fn distance(self, base: Self) -> Option<u64>;
    /// The distance, which is known to fit.
    fn distance_unchecked(self, base: Self) -> u64;
    fn at(base: Self, distance: u64) -> Self;
    /// As it is written; `None` if it doesn't fit.
    fn to_base(self) -> Option<i64>;
    fn of_base(base: i64) -> Self;
}

macro_rules! integer {
    ($($t:ty),*) => {$(
        impl Integer for $t {
            fn distance(self, base: Self) -> Option<u64> {
                u64::try_from(i128::from(self).checked_sub(i128::from(base))?).ok()
            }
            #[inline]
            fn distance_unchecked(self, base: Self) -> u64 {
                self.wrapping_sub(base) as u64
            }
            #[inline]
            fn at(base: Self, distance: u64) -> Self {
                base.wrapping_add(distance as Self)
            }
            fn to_base(self) -> Option<i64> {
                i64::try_from(self).ok()
            }
            fn of_base(base: i64) -> Self {
                base as Self
            }
        }
    )*};
}

integer!(i16, i32, i64, i128);

/// Bytes that numbers up to `largest` need each.
pub(crate) fn width_for(largest: u64) -> usize {
    match largest {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    }
}

/// Appends base and distances and gives the width; appends nothing and gives `None` if that saves nothing.
pub(crate) fn pack<T: Integer>(values: &[T], out: &mut Vec<u8>) -> Option<usize> {
    let (&first, rest) = values.split_first()?;
    let (least, largest) = rest
        .iter()
        .fold((first, first), |(a, b), v| (a.min(*v), b.max(*v)));
    let width = width_for(largest.distance(least)?);
    if width >= size_of::<T>() {
        return None;
    }
    out.extend_from_slice(&least.to_base()?.to_le_bytes());
    let distances = values.iter().map(|v| v.distance_unchecked(least));
    put(distances, width, out);
    Some(width)
}

/// Appends the low `width` bytes of each number.
pub(crate) fn put(numbers: impl Iterator<Item = u64>, width: usize, out: &mut Vec<u8>) {
    out.reserve(numbers.size_hint().0 * width);
    match width {
        1 => out.extend(numbers.map(|n| n as u8)),
        2 => numbers.for_each(|n| out.extend_from_slice(&(n as u16).to_le_bytes())),
        4 => numbers.for_each(|n| out.extend_from_slice(&(n as u32).to_le_bytes())),
        _ => numbers.for_each(|n| out.extend_from_slice(&n.to_le_bytes())),
    }
}

/// Calls `each` with the numbers that [`put`] wrote.
#[inline]
pub(crate) fn get(bytes: &[u8], width: usize, mut each: impl FnMut(u64)) {
    match width {
        1 => bytes.iter().for_each(|b| each(u64::from(*b))),
        2 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .for_each(|b| each(u64::from(u16::from_le_bytes(*b)))),
        4 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .for_each(|b| each(u64::from(u32::from_le_bytes(*b)))),
        _ => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .for_each(|b| each(u64::from_le_bytes(*b))),
    }
}

/// The values whose base and distances [`pack`] wrote.
pub(crate) fn unpack<T: Integer + arrow::datatypes::ArrowNativeType>(
    base: i64,
    distances: &[u8],
    width: usize,
) -> Buffer {
    let base = T::of_base(base);
    let mut out = MutableBuffer::from_len_zeroed(distances.len() / width * size_of::<T>());
    let mut places = out.typed_data_mut::<T>().iter_mut();
    get(distances, width, |n| {
        if let Some(place) = places.next() {
            *place = T::at(base, n);
        }
    });
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::buffer::ScalarBuffer;
    use arrow::datatypes::ArrowNativeType;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn back<T: Integer + ArrowNativeType + std::fmt::Debug>(values: &[T]) -> Option<usize> {
        let mut out = Vec::new();
        let width = pack(values, &mut out);
        match width {
            None => assert!(out.is_empty()),
            Some(width) => {
                let (base, rest) = out.split_first_chunk::<8>().unwrap();
                let unpacked = unpack::<T>(i64::from_le_bytes(*base), rest, width);
                assert_eq!(&ScalarBuffer::<T>::from(unpacked)[..], values);
            }
        }
        width
    }

    #[test]
    fn widths() {
        assert_eq!(back::<i64>(&[]), None);
        assert_eq!(back(&[7i64]), Some(1));
        assert_eq!(back(&[-1i64, 254]), Some(1));
        assert_eq!(back(&[-1i64, 255]), Some(2));
        assert_eq!(back(&[0i64, 1 << 32]), None);
        assert_eq!(back(&[i64::MIN, i64::MAX]), None);
        assert_eq!(back(&[0i128, 1 << 32]), Some(8));
        assert_eq!(back(&[1i128 << 64, (1 << 64) + 1]), None);
        assert_eq!(back(&[i128::MIN, i128::MAX]), None);
        assert_eq!(back(&[i16::MIN, i16::MIN + 255]), Some(1));
        assert_eq!(back(&[0i16, 256]), None);
        assert_eq!(back(&[i32::MAX - 65_535, i32::MAX]), Some(2));
    }

    #[test]
    fn any_values_come_back() {
        let seed = 5;
        println!("seed {seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..500 {
            let n = rng.random_range(0..50);
            let spread = 1u64 << rng.random_range(0..63);
            let base: i64 = rng.random();
            let values: Vec<i64> = (0..n)
                .map(|_| base.wrapping_add(rng.random_range(0..spread) as i64))
                .collect();
            back(&values);
            back(&values.iter().map(|v| *v as i16).collect::<Vec<_>>());
            back(&values.iter().map(|v| *v as i32).collect::<Vec<_>>());
            back(
                &values
                    .iter()
                    .map(|v| i128::from(*v) << (n % 70))
                    .collect::<Vec<_>>(),
            );
        }
    }
}
