//! Invite codes: what a person carries from one computer to the other.
//!
//! ```text
//!  35 bits  public part: names the invite, travels in clear to the host
//! 128 bits  secret: becomes the pre-shared key of the handshake, travels nowhere
//!  12 bits  checksum of both (CRC-12)
//! ```
//!
//! 175 bits are 35 symbols in seven groups of five. The alphabet is Crockford's: digits and letters
//! without `i`, `l`, `o` and `u`, read case-insensitively, with `i` and `l` taken for 1 and `o` for 0.
//! The checksum finds every error burst of up to 12 bits, so any one wrong symbol and any two
//! neighbours swapped: a typing error is told as one, and costs no attempt at the host.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use crate::secure::Psk;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const GROUP: usize = 5;
/// Symbols of a whole code.
const SYMBOLS: usize = 35;
/// Symbols of the public part.
const ID_SYMBOLS: usize = 7;
/// Symbols that hold nothing but secret; its last three bits share the next one with the checksum.
const SECRET_SYMBOLS: usize = 25;
/// x¹² + x¹¹ + x³ + x² + x + 1.
const CRC12: u16 = 0x80f;

/// An invite code. Whoever has it can become an authorised client, so it has no `Display` and its
/// `Debug` shows the public part only.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    id: u64,
    secret: Zeroizing<[u8; 16]>,
}

impl Code {
    /// A fresh code from 24 random bytes.
    pub fn from_random(random: &[u8; 24]) -> Code {
        let (id, secret) = random.split_at(8);
        let id = id.iter().fold(0u64, |id, byte| id << 8 | u64::from(*byte));
        let mut own = Zeroizing::new([0; 16]);
        own.copy_from_slice(secret);
        Code { id: id >> (64 - 5 * ID_SYMBOLS), secret: own }
    }

    pub(super) fn from_parts(id: u64, secret: Zeroizing<[u8; 16]>) -> Code {
        Code { id, secret }
    }

    /// The public part, below 2³⁵: names the invite at the host.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn secret(&self) -> &[u8; 16] {
        &self.secret
    }

    /// The pre-shared key of the handshake (SHA-256 of the secret behind a label).
    pub fn psk(&self) -> Psk {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"punchtunnel invite 1");
        hash.update(self.secret.as_slice());
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(hash.finish().as_ref());
        Psk(key)
    }

    /// The code as it is shown to a person: `xxxxx-xxxxx-…`, seven groups. For standard output or a
    /// terminal, never for a log.
    pub fn reveal(&self) -> Zeroizing<String> {
        let secret = u128::from_be_bytes(*self.secret);
        let tail = (secret & 7) as u32 * 4096 + u32::from(crc12(self.id, secret));
        let symbols = (0..ID_SYMBOLS)
            .rev()
            .map(|i| (self.id >> (5 * i)) as u8)
            .chain((0..SECRET_SYMBOLS).rev().map(|i| (secret >> (5 * i + 3)) as u8))
            .chain((0..3).rev().map(|i| (tail >> (5 * i)) as u8));
        let mut text = Zeroizing::new(String::with_capacity(SYMBOLS + SYMBOLS / GROUP));
        for (place, symbol) in symbols.enumerate() {
            if place > 0 && place % GROUP == 0 {
                text.push('-');
            }
            text.push(letter(symbol));
        }
        text
    }
}

/// Why text is no invite code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Too few or too many symbols.
    #[error("an invite code has {SYMBOLS} letters and digits, this one has {0}: copy it again")]
    Length(usize),
    /// A character that no code has.
    #[error("{0:?} does not occur in invite codes: copy it again")]
    Character(char),
    /// The checksum is wrong.
    #[error("there is a typing error in the invite code: copy it again")]
    Typo,
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let mut symbols = Zeroizing::new(Vec::with_capacity(text.len()));
        for c in text.chars().filter(|c| *c != '-' && !c.is_whitespace()) {
            symbols.push(symbol(c).ok_or(CodeError::Character(c))?);
        }
        if symbols.len() != SYMBOLS {
            return Err(CodeError::Length(symbols.len()));
        }
        let (id, rest) = symbols.split_at(ID_SYMBOLS);
        let (head, tail) = rest.split_at(SECRET_SYMBOLS);
        let id = id.iter().fold(0u64, |id, s| id << 5 | u64::from(*s));
        let head = head.iter().fold(0u128, |head, s| head << 5 | u128::from(*s));
        let tail = tail.iter().fold(0u16, |tail, s| tail << 5 | u16::from(*s));
        let secret = head << 3 | u128::from(tail >> 12);
        if crc12(id, secret) != tail & 0xfff {
            return Err(CodeError::Typo);
        }
        Ok(Code { id, secret: Zeroizing::new(secret.to_be_bytes()) })
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({})", show_id(self.id))
    }
}

/// The public part as text: the first seven symbols of the code.
pub(super) fn show_id(id: u64) -> String {
    (0..ID_SYMBOLS).rev().map(|i| letter((id >> (5 * i)) as u8)).collect()
}

/// Reads what [`show_id`] shows.
pub(super) fn parse_id(text: &str) -> Option<u64> {
    if text.chars().count() != ID_SYMBOLS {
        return None;
    }
    text.chars().try_fold(0u64, |id, c| Some(id << 5 | u64::from(symbol(c)?)))
}

fn letter(symbol: u8) -> char {
    char::from(ALPHABET[usize::from(symbol & 31)])
}

fn symbol(c: char) -> Option<u8> {
    let plain = match c.to_ascii_lowercase() {
        'o' => '0',
        'i' | 'l' => '1',
        other => other,
    };
    ALPHABET.iter().position(|a| char::from(*a) == plain).map(|place| place as u8)
}

fn crc12(id: u64, secret: u128) -> u16 {
    let id_bits = (0..5 * ID_SYMBOLS).rev().map(|i| id >> i & 1 == 1);
    let secret_bits = (0..128).rev().map(|i| secret >> i & 1 == 1);
    id_bits.chain(secret_bits).fold(0, |crc, bit| {
        let carry = (crc >> 11 & 1 == 1) != bit;
        (crc << 1 & 0xfff) ^ if carry { CRC12 } else { 0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Code {
        Code::from_random(&std::array::from_fn(|i| (i as u8).wrapping_mul(89).wrapping_add(13)))
    }

    #[test]
    fn a_code_is_seven_groups_and_reads_back_however_it_is_typed() {
        let shown = code().reveal();
        assert_eq!(shown.split('-').map(str::len).collect::<Vec<_>>(), [5; 7]);
        let plain = shown.replace('-', "");
        let looks_alike = shown.replace('0', "O").replace('1', "l");
        for typed in [shown.as_str(), &plain, &shown.to_uppercase(), &looks_alike, &format!(" {} \n", *shown)]
        {
            assert_eq!(typed.parse::<Code>().as_ref(), Ok(&code()), "{typed:?}");
        }
        assert_eq!(parse_id(&show_id(code().id())), Some(code().id()));
        assert!(plain.starts_with(&show_id(code().id())));
    }

    #[test]
    fn every_wrong_symbol_and_every_swap_of_neighbours_is_told_as_a_typing_error() {
        let plain: Vec<char> = code().reveal().replace('-', "").chars().collect();
        for place in 0..SYMBOLS {
            for other in ALPHABET.iter().map(|a| char::from(*a)).filter(|c| *c != plain[place]) {
                let mut typed = plain.clone();
                typed[place] = other;
                let typed: String = typed.into_iter().collect();
                assert_eq!(typed.parse::<Code>(), Err(CodeError::Typo), "{typed}");
            }
            if place > 0 && plain[place] != plain[place - 1] {
                let mut typed = plain.clone();
                typed.swap(place, place - 1);
                let typed: String = typed.into_iter().collect();
                assert_eq!(typed.parse::<Code>(), Err(CodeError::Typo), "{typed}");
            }
        }
    }

    #[test]
    fn what_is_missing_or_foreign_is_told_as_such() {
        assert_eq!("".parse::<Code>(), Err(CodeError::Length(0)));
        assert_eq!("abcde-fgh".parse::<Code>(), Err(CodeError::Length(8)));
        assert_eq!("abcu".parse::<Code>(), Err(CodeError::Character('u')));
    }

    #[test]
    fn nothing_but_reveal_shows_the_secret() {
        let debug = format!("{:?}", code());
        assert_eq!(debug, format!("Code({})", show_id(code().id())));
    }
}
