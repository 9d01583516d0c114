//! PAX extended headers: records of `LENGTH KEY=VALUE\n` (POSIX.1-2001, pax, "pax Extended Header").

/// Key of an extended attribute, before its name (star, GNU tar, libarchive).
pub(super) const XATTR: &str = "SCHILY.xattr.";

/// Record of a global header with which a sender says why it stops.
pub(super) const ABORT: &str = "GUESTD.error";

/// Appends a record.
pub(super) fn push(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts itself: its digits can make it one longer.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + digits(rest);
    if digits(length) + rest != length {
        length = rest + digits(length);
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Key and value of a record.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The records in a header's content; an error where it is not made of them.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Vec<Record<'_>>, &'static str> {
    const WRONG: &str = "an extended header is malformed";
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or(WRONG)?;
        let length: usize = str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok()).ok_or(WRONG)?;
        if length <= space + 1 || length > bytes.len() {
            return Err(WRONG);
        }
        let record = bytes[space + 1..length].strip_suffix(b"\n").ok_or(WRONG)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(WRONG)?;
        records.push((&record[..equals], &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// The name of an attribute as a key has it: `=` ends a key.
pub(super) fn encode_name(name: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => encoded.extend_from_slice(b"%25"),
            b'=' => encoded.extend_from_slice(b"%3D"),
            other => encoded.push(*other),
        }
    }
    encoded
}

/// The name of an attribute from its key.
pub(super) fn decode_name(mut key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    while let Some((byte, rest)) = key.split_first() {
        let (byte, rest) = match (byte, rest) {
            (b'%', [b'2', b'5', rest @ ..]) => (b'%', rest),
            (b'%', [b'3', b'D' | b'd', rest @ ..]) => (b'=', rest),
            _ => (*byte, rest),
        };
        name.push(byte);
        key = rest;
    }
    name
}

/// Seconds with a fraction, as `1700000000.123456789`.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let mut digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.try_fold(0_u32, |nanos, digit| nanos.checked_mul(10)?.checked_add(u32::from(digit - b'0')))?;
    // Before 1970 the fraction counts away from zero: -1.25 is 0.75 s after -2.
    if whole.starts_with('-') && nanos > 0 {
        Some((secs.checked_sub(1)?, 1_000_000_000 - nanos))
    } else {
        Some((secs, nanos))
    }
}

/// The text of such a time.
pub(super) fn time_text(secs: i64, nanos: u32) -> String {
    match (secs, nanos) {
        (secs, 0) => secs.to_string(),
        (0.., nanos) => format!("{secs}.{nanos:09}"),
        (-1, nanos) => format!("-0.{:09}", 1_000_000_000 - nanos),
        (secs, nanos) => format!("{}.{:09}", secs + 1, 1_000_000_000 - nanos),
    }
}
