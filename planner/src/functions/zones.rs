//! Time zones: offsets, abbreviations and names, and local times in them.

use std::cell::RefCell;

use chrono::TimeZone;
use chrono_tz::OffsetName;
use tidemill_zset::zones::{offset_of_instant, offset_of_local, within_tables};

use super::parse_dates::datetime_of;
use crate::error::{Result, SqlError};

/// Abbreviations that stand for an offset, each with its minutes east; those of PostgreSQL's default set.
const ABBREVIATIONS: &str = "\
    ACDT 630 ACSST 630 ACST 570 ACT -300 ACWST 525 ADT -180 AEDT 660 AESST 660 AEST 600 AFT 270 AKDT \
    -480 AKST -540 ALMST 420 ALMT 360 AMST 240 AMT -240 ANAST 720 ANAT 720 ARST -180 ART -180 AST -240 \
    AWSST 540 AWST 480 AZOST 0 AZOT -60 AZST 240 AZT 240 BDST 120 BDT 360 BNT 480 BORT 480 BOT -240 BRA \
    -180 BRST -120 BRT -180 BST 60 BTT 360 CADT 630 CAST 570 CCT 480 CDT -300 CEST 120 CET 60 CETDST 120 \
    CHADT 825 CHAST 765 CHUT 600 CKT -600 CLST -180 CLT -180 COT -300 CST -360 CXT 420 DAVT 420 DDUT 600 \
    EASST -300 EAST -300 EAT 180 EDT -240 EEST 180 EET 120 EETDST 180 EGST 0 EGT -60 EST -300 FET 180 \
    FJST 780 FJT 720 FKST -180 FKT -180 FNST -60 FNT -120 GALT -360 GAMT -540 GEST 240 GET 240 GFT -180 \
    GILT 720 GMT 0 GYT -240 HKT 480 HST -600 ICT 420 IDT 180 IOT 360 IRKST 480 IRKT 480 IRT 210 IST 120 \
    JAYT 540 JST 540 KDT 600 KGST 360 KGT 360 KOST 660 KRAST 420 KRAT 420 KST 540 LHDT 660 LHST 630 LIGT \
    600 LINT 840 LKT 330 MAGST 660 MAGT 660 MART -570 MAWT 300 MDT -360 MEST 120 MESZ 120 MET 60 METDST \
    120 MEZ 60 MHT 720 MMT 390 MPT 600 MSD 240 MSK 180 MST -420 MUST 300 MUT 240 MVT 300 MYT 480 NDT \
    -150 NFT -210 NOVST 420 NOVT 420 NPT 345 NST -210 NUT -660 NZDT 780 NZST 720 NZT 720 OMSST 360 OMST \
    360 PDT -420 PET -300 PETST 720 PETT 720 PGT 600 PHT 480 PKST 360 PKT 300 PMDT -120 PMST -180 PONT \
    660 PST -480 PWT 540 PYST -180 PYT -180 RET 240 SADT 630 SAST 120 SCT 240 SGT 480 TAHT -600 TFT 300 \
    TJT 300 TKT 780 TMT 300 TOT 780 TRUT 600 TVT 720 UCT 0 ULAST 540 ULAT 480 UT 0 UTC 0 UYST -120 UYT \
    -180 UZST 360 UZT 300 VET -240 VLAST 600 VLAT 600 VOLT 180 VUT 660 WADT 480 WAKT 720 WAST 420 WAT 60 \
    WDT 540 WET 0 WETDST 60 WFT 720 WGST -120 WGT -180 XJT 360 YAKST 540 YAKT 540 YAPT 600 YEKST 360 \
    YEKT 300 Z 0 ZULU 0";

/// The offset of an abbreviation such as `PST` or `Z`, in seconds east.
fn abbreviated(zone: &str) -> Option<i64> {
    let word = zone.to_ascii_uppercase();
    let mut known = ABBREVIATIONS.split_ascii_whitespace();
    if !word.starts_with(|c: char| c.is_ascii_alphabetic()) || !known.any(|w| w == word) {
        return None;
    }
    known
        .next()?
        .parse::<i64>()
        .ok()
        .map(|minutes| minutes * 60)
}

/// An offset as it stands in a literal, in seconds east: `+02`, `-03:30`, `+0330`.
fn iso_offset(zone: &str) -> Option<i64> {
    let (sign, t) = signed(zone)?;
    let digits: String = t.chars().filter(|c| *c != ':').collect();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (h, m, s) = match digits.len() {
        1 | 2 => (digits.parse().ok()?, 0, 0),
        3 => (digits[..1].parse().ok()?, digits[1..].parse().ok()?, 0),
        4 => (digits[..2].parse().ok()?, digits[2..].parse().ok()?, 0),
        // +5:30:16
        5 if t.contains(':') => (
            digits[..1].parse().ok()?,
            digits[1..3].parse().ok()?,
            digits[3..].parse().ok()?,
        ),
        6 => (
            digits[..2].parse().ok()?,
            digits[2..4].parse().ok()?,
            digits[4..].parse().ok()?,
        ),
        _ => return None,
    };
    let (h, m, s): (i64, i64, i64) = (h, m, s);
    (h <= 15 && m < 60 && s < 60).then_some(sign * (h * 3600 + m * 60 + s))
}

fn signed(text: &str) -> Option<(i64, &str)> {
    match text.as_bytes().first()? {
        b'+' => Some((1, &text[1..])),
        b'-' => Some((-1, &text[1..])),
        _ => None,
    }
}

/// A zone as POSIX writes it, in seconds east: `UTC+3`, `<abc>-4`, `-03:30`. Its sign counts westwards.
fn posix_offset(zone: &str) -> Option<i64> {
    let after_name = match zone.strip_prefix('<') {
        Some(named) => named.split_once('>')?.1,
        None => zone.trim_start_matches(|c: char| c.is_ascii_alphabetic()),
    };
    let (sign, t) = signed(after_name).unwrap_or((1, after_name));
    let mut parts = t.split(':');
    let mut part = |digits: usize, max: i64| -> Option<i64> {
        let Some(text) = parts.next() else {
            return Some(0);
        };
        let fits = (1..=digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|n| fits && *n <= max)
    };
    let (h, m, s) = (part(3, 167)?, part(2, 59)?, part(2, 59)?);
    let none_left = parts.next().is_none();
    none_left.then_some(-sign * (h * 3600 + m * 60 + s))
}

/// What a zone's name stands for.
#[derive(Clone, Copy)]
enum Zone {
    /// Seconds east.
    Fixed(i64),
    Named(chrono_tz::Tz),
}

thread_local! {
    /// The zone that was asked for last: it is mostly the same for all rows.
    static LAST: RefCell<Option<(String, Zone)>> = const { RefCell::new(None) };
}

fn zone(name: &str) -> Result<Zone> {
    LAST.with_borrow_mut(|last| match last {
        Some((have, zone)) if have == name => Ok(*zone),
        _ => {
            let zone = zone_of(name)?;
            *last = Some((name.to_string(), zone));
            Ok(zone)
        }
    })
}

fn zone_of(name: &str) -> Result<Zone> {
    if let Some(east) = abbreviated(name).or_else(|| posix_offset(name)) {
        return Ok(Zone::Fixed(east));
    }
    named_zone(name).map(Zone::Named)
}

fn named_zone(zone: &str) -> Result<chrono_tz::Tz> {
    zone.parse::<chrono_tz::Tz>()
        .ok()
        .or_else(|| {
            chrono_tz::TZ_VARIANTS
                .iter()
                .find(|t| t.name().eq_ignore_ascii_case(zone))
                .copied()
        })
        .ok_or_else(|| SqlError::new("22023", format!("time zone \"{zone}\" not recognized")))
}

fn is_clock(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b == b':')
}

/// Local time in the zone of a literal to UTC, both in microseconds.
pub fn literal_to_utc(local: i64, zone: &str) -> Result<i64> {
    match iso_offset(zone) {
        Some(east) => Ok(local - east * 1_000_000),
        None if signed(zone).is_some_and(|(_, t)| is_clock(t)) => {
            let message = format!("time zone displacement out of range: \"{zone}\"");
            Err(SqlError::new("22009", message))
        }
        None => to_utc(local, zone),
    }
}

/// Local time in the zone that make_timestamptz is given to UTC, both in microseconds. Numbers count eastwards there.
pub fn argument_to_utc(local: i64, zone: &str) -> Result<i64> {
    if zone.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(SqlError::new(
            "22023",
            format!("invalid input syntax for type numeric time zone: \"{zone}\""),
        )
        .hint("Numeric time zones must have \"-\" or \"+\" as first character."));
    }
    if signed(zone).is_some() && iso_offset(zone).is_none() {
        return Err(SqlError::new(
            "22023",
            format!("numeric time zone \"{zone}\" out of range"),
        ));
    }
    literal_to_utc(local, zone)
}

/// Local time in the zone `name` to UTC, both in microseconds.
pub fn to_utc(local: i64, name: &str) -> Result<i64> {
    let tz = match zone(name)? {
        Zone::Fixed(east) => return Ok(local - east * 1_000_000),
        Zone::Named(tz) => tz,
    };
    let t = datetime_of(local).ok_or_else(|| SqlError::new("22008", "timestamp out of range"))?;
    Ok(local - offset_of_local(&tz, t) * 1_000_000)
}

/// UTC to local time in the zone `name`, both in microseconds.
pub fn to_local(utc: i64, name: &str) -> Result<i64> {
    Ok(utc + offset_at(utc, name)? * 1_000_000)
}

/// What the zone `name` is called at an instant, for short.
pub fn abbreviation(utc: i64, name: &str) -> Result<String> {
    let Zone::Named(tz) = zone(name)? else {
        return Ok(name.to_string());
    };
    let t = datetime_of(utc).ok_or_else(|| SqlError::new("22008", "timestamp out of range"))?;
    let offset = tz.offset_from_utc_datetime(&within_tables(t));
    Ok(offset.abbreviation().unwrap_or(name).to_string())
}

/// Seconds east of UTC in the zone `name` at an instant.
pub fn offset_at(utc: i64, name: &str) -> Result<i64> {
    let tz = match zone(name)? {
        Zone::Fixed(east) => return Ok(east),
        Zone::Named(tz) => tz,
    };
    let t = datetime_of(utc).ok_or_else(|| SqlError::new("22008", "timestamp out of range"))?;
    Ok(offset_of_instant(&tz, t))
}
