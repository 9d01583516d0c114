//! The bearer token of a VM.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hyper::header::HeaderValue;

use crate::limits;

/// A bearer token: sent with each request, never printed.
#[derive(Clone)]
pub struct Token(HeaderValue);

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing but white space.
    #[error("the token is empty: it must be the VM's VERS_AUTH_TOKEN")]
    Empty,
    /// It does not fit a request's headers.
    #[error(
        "the token is longer than {} bytes, which none of guestd's is: check that the file is the right one",
        limits::TOKEN_BYTES
    )]
    TooLong,
    /// It holds characters that a header cannot carry.
    #[error("the token holds blanks or characters that no HTTP header can carry: check that the file is the right one")]
    BadCharacter,
}

impl Token {
    /// A token from its text; white space around it is dropped.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.len() > limits::TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::BadCharacter);
        }
        let mut value = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| TokenError::BadCharacter)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The token that a file holds.
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let read = || {
            let mut bytes = Vec::new();
            // Room for white space around the token, and no more, whatever the file is.
            let limit = limits::TOKEN_BYTES as u64 + 256;
            File::open(path)?.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| TokenError::Read { path: path.to_owned(), source })?;
        Self::new(&String::from_utf8(bytes).map_err(|_| TokenError::BadCharacter)?)
    }

    /// Value of the `Authorization` header.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_a_token_is_no_part_of_it() {
        let token = Token::new(" s3cret\n").unwrap();
        assert_eq!(token.header().to_str().unwrap(), "Bearer s3cret");
    }

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::new("s3cret").unwrap();
        assert_eq!(format!("{token:?} {:?}", token.header()), "Token(…) Sensitive");
    }

    #[test]
    fn what_no_header_can_carry_is_refused() {
        assert!(matches!(Token::new(" \n"), Err(TokenError::Empty)));
        assert!(matches!(Token::new("a b"), Err(TokenError::BadCharacter)));
        assert!(matches!(Token::new("a\r\nX: y"), Err(TokenError::BadCharacter)));
        let long = "x".repeat(limits::TOKEN_BYTES + 1);
        assert!(matches!(Token::new(&long), Err(TokenError::TooLong)));
    }

    #[test]
    fn a_missing_token_file_is_named() {
        let error = Token::from_file(Path::new("/nowhere/token")).unwrap_err();
        insta::assert_snapshot!(error, @"cannot read the token file /nowhere/token: No such file or directory (os error 2)");
    }

    #[test]
    fn an_endless_token_file_is_not_read_to_its_end() {
        let error = Token::from_file(Path::new("/dev/zero")).unwrap_err();
        assert!(matches!(error, TokenError::TooLong | TokenError::BadCharacter));
    }
}
