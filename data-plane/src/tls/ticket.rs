//! Session tickets by keys that several proxies share (`session_ticket_keys`), in the form that RFC
//! 5077 section 4 recommends.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use rustls::server::ProducesTickets;
use sha2::{Digest, Sha256};

/// A key as Envoy has it: 16 bytes of name, 32 that authenticate, 32 that encrypt.
const KEY_BYTES: usize = 80;
const NAME_BYTES: usize = 16;
const IV_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
const TIME_BYTES: usize = 8;

/// Keys of tickets, at least one. The first makes tickets; all open them.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKeys(Box<[[u8; KEY_BYTES]]>);

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys ***", self.0.len())
    }
}

impl TicketKeys {
    /// The length of a key.
    pub const KEY_BYTES: usize = KEY_BYTES;

    /// Keys in order; none where there is none, or where one is not 80 bytes long.
    pub fn new(keys: &[Vec<u8>]) -> Option<Self> {
        let keys: Option<Box<[_]>> =
            keys.iter().map(|key| key.as_slice().try_into().ok()).collect();
        keys.filter(|keys| !keys.is_empty()).map(Self)
    }
}

/// Makes and opens the tickets of one TLS context.
pub(super) struct Tickets {
    keys: Vec<Key>,
    /// Of what a session must have been made under: who resumes shows no certificate again.
    context: [u8; 32],
    lifetime_secs: u32,
}

struct Key {
    name: [u8; NAME_BYTES],
    mac: hmac::Key,
    encrypting: PaddedBlockEncryptingKey,
    decrypting: PaddedBlockDecryptingKey,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tickets({} keys ***)", self.keys.len())
    }
}

impl Tickets {
    /// Tickets that hold for `lifetime_secs`, between contexts of equal `context`.
    ///
    /// # Errors
    /// When the library of cryptography takes no key.
    pub(super) fn new(
        keys: &TicketKeys,
        context: &[&[u8]],
        lifetime_secs: u32,
    ) -> Result<Self, Unspecified> {
        let mut hash = Sha256::new();
        for part in context {
            hash.update(part);
        }
        let keys = keys.0.iter().map(Key::new).collect::<Result<_, _>>()?;
        Ok(Self { keys, context: hash.finalize().into(), lifetime_secs })
    }

    fn mac(&self, key: &Key, ticket: &[u8]) -> hmac::Tag {
        let mut mac = hmac::Context::with_key(&key.mac);
        mac.update(ticket);
        mac.update(&self.context);
        mac.sign()
    }

    fn seal(&self, now: u64, state: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut sealed = Vec::with_capacity(TIME_BYTES + state.len() + 16);
        sealed.extend_from_slice(&now.to_be_bytes());
        sealed.extend_from_slice(state);
        let DecryptionContext::Iv128(iv) = key.encrypting.encrypt(&mut sealed).ok()? else {
            return None;
        };
        let mut ticket = Vec::with_capacity(NAME_BYTES + IV_BYTES + sealed.len() + MAC_BYTES);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(iv.as_ref());
        ticket.extend_from_slice(&sealed);
        let mac = self.mac(key, &ticket);
        ticket.extend_from_slice(mac.as_ref());
        Some(ticket)
    }

    fn open(&self, now: u64, ticket: &[u8]) -> Option<Vec<u8>> {
        let (said, mac) = ticket.split_at_checked(ticket.len().checked_sub(MAC_BYTES)?)?;
        let (name, rest) = said.split_at_checked(NAME_BYTES)?;
        let (iv, sealed) = rest.split_at_checked(IV_BYTES)?;
        let key = self.keys.iter().find(|key| key.name == *name)?;
        verify_slices_are_equal(self.mac(key, said).as_ref(), mac).ok()?;
        let iv: [u8; IV_BYTES] = iv.try_into().ok()?;
        let iv = DecryptionContext::Iv128(FixedLength::from(&iv));
        let mut sealed = sealed.to_vec();
        let opened = key.decrypting.decrypt(&mut sealed, iv).ok()?;
        let (made, state) = opened.split_at_checked(TIME_BYTES)?;
        let made = u64::from_be_bytes(made.try_into().ok()?);
        // Another proxy's clock may be ahead by a little.
        let age = now.saturating_sub(made);
        (age <= u64::from(self.lifetime_secs)).then(|| state.to_vec())
    }
}

impl Key {
    fn new(key: &[u8; KEY_BYTES]) -> Result<Self, Unspecified> {
        let (name, rest) = key.split_first_chunk::<NAME_BYTES>().ok_or(Unspecified)?;
        let (mac, aes) = rest.split_at(rest.len() / 2);
        Ok(Self {
            name: *name,
            mac: hmac::Key::new(hmac::HMAC_SHA256, mac),
            encrypting: PaddedBlockEncryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, aes)?)?,
            decrypting: PaddedBlockDecryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, aes)?)?,
        })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime_secs
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(now(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(now(), cipher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(first_bytes: &[u8], context: &[u8]) -> Tickets {
        let keys: Vec<_> = first_bytes.iter().map(|byte| vec![*byte; KEY_BYTES]).collect();
        Tickets::new(&TicketKeys::new(&keys).unwrap(), &[context], 60).unwrap()
    }

    #[test]
    fn the_first_key_makes_tickets_and_all_open_them() {
        let before = tickets(&[1, 2], b"c");
        let after = tickets(&[3, 1], b"c");
        let ticket = before.seal(100, b"state").unwrap();
        assert_eq!(ticket[..NAME_BYTES], [1; NAME_BYTES]);
        assert_eq!(after.open(100, &ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(tickets(&[3, 2], b"c").open(100, &ticket), None);
        assert_ne!(before.seal(100, b"state"), Some(ticket));
    }

    #[test]
    fn a_ticket_ends_with_its_time_and_outside_its_context() {
        let ticket = tickets(&[1], b"c").seal(100, b"state").unwrap();
        assert!(tickets(&[1], b"c").open(160, &ticket).is_some());
        assert!(tickets(&[1], b"c").open(161, &ticket).is_none());
        assert!(tickets(&[1], b"other").open(100, &ticket).is_none());
    }

    #[test]
    fn what_is_not_a_ticket_is_none() {
        let tickets = tickets(&[1], b"c");
        let ticket = tickets.seal(0, b"state").unwrap();
        for at in 0..ticket.len() {
            assert!(tickets.open(0, &ticket[..at]).is_none());
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(tickets.open(0, &changed).is_none(), "byte {at}");
        }
        assert!(tickets.open(0, &[]).is_none());
    }

    #[test]
    fn keys_are_80_bytes_long() {
        assert!(TicketKeys::new(&[vec![0; 80], vec![0; 79]]).is_none());
        assert!(TicketKeys::new(&[]).is_none());
        let keys = TicketKeys::new(&[vec![7; 80]]).unwrap();
        assert_eq!(format!("{keys:?}"), "1 keys ***");
    }
}
