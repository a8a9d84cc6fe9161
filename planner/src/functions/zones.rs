//! Time zones: offsets, abbreviations and names, and local times in them.

use chrono::{Offset, TimeZone};

use super::parse::{datetime_of, micros};
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

/// A fixed offset such as `+02`, `-03:30`, `Z`, `PST`, in seconds east.
fn fixed_offset(zone: &str) -> Option<i64> {
    let word = zone.to_ascii_uppercase();
    let mut known = ABBREVIATIONS.split_ascii_whitespace();
    if known.any(|w| w == word) && !word.starts_with(|c: char| !c.is_ascii_alphabetic()) {
        return known
            .next()?
            .parse::<i64>()
            .ok()
            .map(|minutes| minutes * 60);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let t = &zone[1..];
    let digits: String = t.chars().filter(|c| *c != ':').collect();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (h, m, s) = match digits.len() {
        1 | 2 => (digits.parse().ok()?, 0, 0),
        3 => (digits[..1].parse().ok()?, digits[1..].parse().ok()?, 0),
        4 => (digits[..2].parse().ok()?, digits[2..].parse().ok()?, 0),
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

/// Local time in `zone` to UTC, both in microseconds.
pub fn to_utc(local: i64, zone: &str) -> Result<i64> {
    if let Some(offset) = fixed_offset(zone) {
        return Ok(local - offset * 1_000_000);
    }
    let tz = named_zone(zone)?;
    let t = datetime_of(local).ok_or_else(|| SqlError::new("22008", "timestamp out of range"))?;
    let utc = match tz.from_local_datetime(&t) {
        chrono::LocalResult::Single(v) => v,
        // PostgreSQL takes standard time for the hour that occurs twice.
        chrono::LocalResult::Ambiguous(_, later) => later,
        chrono::LocalResult::None => {
            let before = t - chrono::TimeDelta::hours(3);
            let offset = tz.offset_from_utc_datetime(&before).fix().local_minus_utc() as i64;
            return Ok(local - offset * 1_000_000);
        }
    };
    Ok(micros(utc.naive_utc()))
}

/// UTC to local time in `zone`, both in microseconds.
pub fn to_local(utc: i64, zone: &str) -> Result<i64> {
    Ok(utc + offset_at(utc, zone)? * 1_000_000)
}

/// Seconds east of UTC in `zone` at an instant.
pub fn offset_at(utc: i64, zone: &str) -> Result<i64> {
    if let Some(offset) = fixed_offset(zone) {
        return Ok(offset);
    }
    let tz = named_zone(zone)?;
    let t = datetime_of(utc).ok_or_else(|| SqlError::new("22008", "timestamp out of range"))?;
    Ok(tz.offset_from_utc_datetime(&t).fix().local_minus_utc() as i64)
}
