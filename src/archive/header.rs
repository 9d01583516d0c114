//! The 512-byte header of an entry (ustar of POSIX.1-1988, with GNU's base-256 numbers).

/// Size of a block: of headers, and what content is padded to.
pub(super) const BLOCK: usize = 512;

/// A block of a tar stream.
pub(super) type Block = [u8; BLOCK];

/// A field of the header: first byte and length.
#[derive(Clone, Copy)]
pub(super) struct Field(usize, usize);

pub(super) const NAME: Field = Field(0, 100);
pub(super) const MODE: Field = Field(100, 8);
pub(super) const UID: Field = Field(108, 8);
pub(super) const GID: Field = Field(116, 8);
pub(super) const SIZE: Field = Field(124, 12);
pub(super) const MTIME: Field = Field(136, 12);
const CHECKSUM: Field = Field(148, 8);
pub(super) const LINK: Field = Field(157, 100);
const MAGIC: Field = Field(257, 8);
pub(super) const MAJOR: Field = Field(329, 8);
pub(super) const MINOR: Field = Field(337, 8);
const PREFIX: Field = Field(345, 155);
const TYPE: usize = 156;

/// Ranges of data in the header of GNU's old sparse format; then whether there are more, and the file's length.
pub(super) const GNU_SEGMENTS: Field = Field(386, 96);
pub(super) const GNU_MORE: usize = 482;
pub(super) const GNU_REAL_SIZE: Field = Field(483, 12);
/// The same in a block that continues the header.
pub(super) const GNU_MORE_SEGMENTS: Field = Field(0, 504);
pub(super) const GNU_STILL_MORE: usize = 504;

/// The largest number of a field in octal: 7 digits for most, 11 for size and time.
pub(super) const OCTAL_7: u64 = 0o777_7777;

/// A header that is read.
pub(super) struct Header(pub(super) Block);

impl Header {
    /// Is its checksum right? Old writers summed signed bytes.
    pub(super) fn is_valid(&self) -> bool {
        let Some(expected) = self.number(CHECKSUM) else { return false };
        let sum = |value: fn(u8) -> i64| -> i64 {
            let field = CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1;
            self.0.iter().enumerate().map(|(at, byte)| value(if field.contains(&at) { b' ' } else { *byte })).sum()
        };
        let signed = sum(|byte| i64::from(byte.cast_signed()));
        expected == sum(i64::from) || expected == signed
    }

    /// The end mark is made of these.
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    pub(super) fn bytes(&self, field: Field) -> &[u8] {
        &self.0[field.0..field.0 + field.1]
    }

    /// A text, which ends by NUL where it does not fill its field.
    pub(super) fn text(&self, field: Field) -> &[u8] {
        let bytes = self.bytes(field);
        bytes.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// A number; none where it is none.
    pub(super) fn number(&self, field: Field) -> Option<i64> {
        number(self.bytes(field))
    }

    /// The name, with the prefix that ustar has and GNU has not.
    pub(super) fn name(&self) -> Vec<u8> {
        let (prefix, name) = (self.text(PREFIX), self.text(NAME));
        if self.bytes(MAGIC) != b"ustar\x0000" || prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, name].join(&b'/')
    }
}

/// A number in octal text, or in base 256 (GNU) where its first bit is set.
pub(super) fn number(bytes: &[u8]) -> Option<i64> {
    let (first, rest) = bytes.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement; the second bit is the sign.
        let start = if first & 0x40 != 0 { -1_i64 << 6 | i64::from(first & 0x3f) } else { i64::from(first & 0x3f) };
        return rest.iter().try_fold(start, |value, byte| Some(value.checked_mul(256)? + i64::from(*byte)));
    }
    let text = bytes.trim_ascii_start();
    let end = text.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(text.len());
    text[..end].iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => Some(value.checked_mul(8)? + i64::from(digit - b'0')),
        _ => None,
    })
}

/// A header that is made.
pub(super) struct NewHeader(Block);

impl NewHeader {
    pub(super) fn new(kind: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.0[TYPE] = kind;
        header.text(MAGIC, b"ustar\x0000");
        header
    }

    /// As much of a text as its field holds.
    pub(super) fn text(&mut self, field: Field, text: &[u8]) {
        let length = text.len().min(field.1);
        self.0[field.0..field.0 + length].copy_from_slice(&text[..length]);
    }

    /// A number, in octal where that has room for it and in base 256 where not.
    pub(super) fn number(&mut self, field: Field, value: i64) {
        let digits = field.1 - 1;
        let target = &mut self.0[field.0..field.0 + field.1];
        if u64::try_from(value).is_ok_and(|value| value >> (3 * digits).min(63) == 0) {
            target[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
            return;
        }
        let fill = if value < 0 { 0xff } else { 0 };
        let bytes = value.to_be_bytes();
        target.fill(fill);
        let used = bytes.len().min(field.1);
        target[field.1 - used..].copy_from_slice(&bytes[bytes.len() - used..]);
        target[0] |= 0x80;
    }

    /// The block, with its checksum.
    pub(super) fn finish(mut self) -> Block {
        self.text(CHECKSUM, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.text(CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// Zeros that fill the last block of `length` bytes.
pub(super) fn padding(length: u64) -> usize {
    let over = length % BLOCK as u64;
    if over == 0 { 0 } else { BLOCK - over as usize }
}
