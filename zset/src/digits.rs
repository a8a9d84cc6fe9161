//! Integers from their digits, eight at a time: a loop over digits waits for each multiplication, and its end is guessed wrong
//! where lengths vary.

const ZEROS: u64 = 0x3030_3030_3030_3030;

/// A sign or none and 1 to 18 digits, which is most of what there is and can't overflow; `None` for everything else.
#[inline]
pub fn short_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let value = match digits.len() {
        1..=8 => eight(padded(digits))?,
        9..=16 => {
            let (high, low) = digits.split_last_chunk::<8>()?;
            eight(padded(high))? * 100_000_000 + eight(u64::from_le_bytes(*low))?
        }
        17 | 18 => {
            let (high, low) = digits.split_at(digits.len() - 16);
            let (middle, low) = low.split_at(8);
            let sixteen = eight(padded(middle))? * 100_000_000 + eight(padded(low))?;
            eight(padded(high))? * 10_000_000_000_000_000 + sixteen
        }
        _ => return None,
    };
    Some(if negative { -value } else { value })
}

/// 16 bytes from `n` on: the last `n` are kept.
const KEPT: [u8; 32] = {
    let mut kept = [0; 32];
    let mut at = 16;
    while at < 32 {
        kept[at] = 0xff;
        at += 1;
    }
    kept
};

/// [`short_integer`] of `bytes[start..start + len]`. Those of up to 8 bytes that aren't at the very beginning take the same way
/// whatever their length, and so do those of up to 16: what stands in front of one is read too, and masked.
#[inline(always)]
pub fn short_integer_in(bytes: &[u8], start: usize, len: usize) -> Option<i64> {
    let end = start + len;
    let around = match end.checked_sub(16).and_then(|from| bytes.get(from..end)) {
        Some(around) if (1..=16).contains(&len) => around,
        _ => return short_integer(&bytes[start..end]),
    };
    let negative = bytes[start] == b'-';
    if len > 8 {
        let around = u128::from_le_bytes(*around.first_chunk()?);
        return last_digits(around, len, negative);
    }
    let digits = len - usize::from(negative);
    let kept = u64::from_le_bytes(*KEPT[8 + digits..].first_chunk()?);
    let around = u64::from_le_bytes(*around.last_chunk()?);
    let value = eight((around & kept) | (ZEROS & !kept))?;
    if digits == 0 {
        return None;
    }
    Some(if negative { -value } else { value })
}

/// [`short_integer`] of a text of 1 to 12 bytes that an Arrow string view holds itself; `None` for longer ones too.
#[inline(always)]
pub fn short_integer_inline(view: u128) -> Option<i64> {
    let len = view as u32 as usize;
    if !(1..=12).contains(&len) {
        return None;
    }
    let text = view >> 32;
    last_digits(text << (8 * (16 - len)), len, text as u8 == b'-')
}

/// The number that the last `len` of 16 bytes are, a sign among them if it is `negative`.
#[inline(always)]
fn last_digits(bytes: u128, len: usize, negative: bool) -> Option<i64> {
    let digits = len - usize::from(negative);
    let kept = u128::from_le_bytes(*KEPT[digits..].first_chunk()?);
    let zeros = u128::from(ZEROS) << 64 | u128::from(ZEROS);
    let word = (bytes & kept) | (zeros & !kept);
    let value = eight(word as u64)? * 100_000_000 + eight((word >> 64) as u64)?;
    if digits == 0 {
        return None;
    }
    Some(if negative { -value } else { value })
}

/// 1 to 8 digits as eight, with zeros in front. The first digit is in the lowest byte.
#[inline]
fn padded(digits: &[u8]) -> u64 {
    let missing = 8 * (8 - digits.len() as u32);
    let word = match (digits.first_chunk::<4>(), digits.last_chunk::<4>()) {
        // Where both cover a digit they agree on it.
        (Some(first), Some(last)) => {
            let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
            (u64::from(first) << missing) | (u64::from(last) << 32)
        }
        _ => {
            // Of one to three digits: the first, the middle and the last.
            let last = digits.len() - 1;
            let middle = digits.len() / 2;
            (u64::from(digits[0]) << missing)
                | (u64::from(digits[middle]) << (missing + 8 * middle as u32))
                | (u64::from(digits[last]) << 56)
        }
    };
    word | (ZEROS & ((1u128 << missing) - 1) as u64)
}

/// The number that eight digits are; `None` if one isn't a digit. The steps are from "Quickly parsing eight digits"
/// (D. Lemire, 2018): neighbours are put together, by two, four, and eight.
#[inline]
fn eight(word: u64) -> Option<i64> {
    let value = word ^ ZEROS;
    // A digit stays below 16 when 6 is added; what isn't one has high bits before or after.
    let added = (value & 0x0f0f_0f0f_0f0f_0f0f) + 0x0606_0606_0606_0606;
    if (value | added) & 0xf0f0_f0f0_f0f0_f0f0 != 0 {
        return None;
    }
    let pairs = value.wrapping_mul(10) + (value >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    Some((low.wrapping_add(high) >> 32) as i64)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    /// One digit after the other.
    fn plain(text: &[u8]) -> Option<i64> {
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(text).ok()?.parse().ok()
    }

    /// As Arrow has it; of a longer text only the length is right.
    fn view(text: &[u8]) -> u128 {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&(text.len() as u32).to_le_bytes());
        let inline = text.len().min(12);
        bytes[4..4 + inline].copy_from_slice(&text[..inline]);
        u128::from_le_bytes(bytes)
    }

    #[test]
    fn as_one_digit_after_the_other() {
        let seed = 5;
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut numbers = 0;
        for _ in 0..200_000 {
            let len = rng.random_range(0..20);
            let mut text: Vec<u8> = (0..len).map(|_| rng.random_range(b'0'..=b'9')).collect();
            if rng.random_bool(0.2) {
                text.insert(0, b'-');
            }
            if len > 0 && rng.random_bool(0.3) {
                let at = rng.random_range(0..text.len());
                text[at] = rng.random();
            }
            assert_eq!(short_integer(&text), plain(&text), "{text:?}");
            let before = rng.random_range(0..20);
            let mut longer: Vec<u8> = (0..before).map(|_| rng.random()).collect();
            longer.extend_from_slice(&text);
            let got = short_integer_in(&longer, before, text.len());
            assert_eq!(got, plain(&text), "{text:?} in {longer:?}");
            if text.len() <= 12 {
                assert_eq!(short_integer_inline(view(&text)), plain(&text), "{text:?}");
            }
            numbers += usize::from(plain(&text).is_some());
        }
        assert!(numbers > 100_000, "the test has numbers: {numbers}");
    }

    #[test]
    fn every_byte_at_every_place() {
        for len in 1..=18 {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'7'; len];
                    text[at] = byte;
                    assert_eq!(short_integer(&text), plain(&text), "{text:?}");
                    let longer = [b"0123456789-+1234", text.as_slice()].concat();
                    let got = short_integer_in(&longer, 16, len);
                    assert_eq!(got, plain(&text), "{text:?}");
                    let got = short_integer_inline(view(&text));
                    assert_eq!(got, plain(&text).filter(|_| len <= 12), "{text:?}");
                }
            }
        }
    }
}
