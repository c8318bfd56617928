//! Protection of RMCP+ packets: cipher suites 3 and 17, session keys, AES-CBC-128 and the authentication code
//! (IPMI 2.0 sections 13.28 to 13.32). Pure; a caller hands in every random byte.

use aes::Aes128;
use aes::cipher::{Array, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use ring::hmac;

use super::wire::{NEXT_HEADER, PayloadType, PlusFrame, RMCP_HEADER, WireError, session_header};

const BLOCK: usize = 16;

/// A cipher suite of IPMI 2.0 table 22-20 that authenticates, protects and encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Suite 3: RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128.
    Three,
    /// Suite 17: RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
    Seventeen,
}

impl Suite {
    /// The suite's number.
    pub fn id(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Seventeen => 17,
        }
    }

    /// Numbers of the authentication, integrity and confidentiality algorithm (tables 13-17 to 13-19).
    pub fn algorithms(self) -> [u8; 3] {
        match self {
            Self::Three => [0x01, 0x01, 0x01],
            Self::Seventeen => [0x03, 0x04, 0x01],
        }
    }

    /// The suite with these algorithm numbers, if it is one of ours.
    pub fn from_algorithms(numbers: [u8; 3]) -> Option<Self> {
        [Self::Three, Self::Seventeen]
            .into_iter()
            .find(|suite| suite.algorithms() == numbers)
    }

    /// Length in bytes of a full HMAC, as sent in RAKP 2 and 3.
    pub fn hash_length(self) -> usize {
        match self {
            Self::Three => 20,
            Self::Seventeen => 32,
        }
    }

    /// Length in bytes of the truncated HMAC of RAKP 4 and of every packet.
    pub fn code_length(self) -> usize {
        match self {
            Self::Three => 12,
            Self::Seventeen => 16,
        }
    }

    fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::Three => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Seventeen => hmac::HMAC_SHA256,
        }
    }

    /// Full HMAC of `parts` put together.
    pub fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&hmac::Key::new(self.algorithm(), key));
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }

    /// Whether `code` is the HMAC of `parts`, possibly truncated to `length` bytes; in constant time.
    pub fn verify(self, key: &[u8], parts: &[&[u8]], code: &[u8], length: usize) -> bool {
        let full = self.hmac(key, parts);
        full.get(..length).is_some_and(|expected| equal(expected, code))
    }
}

/// Compares without telling by time where the difference is.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

/// Keys of one session. Has no `Debug`.
#[derive(Clone)]
pub struct SessionKeys {
    suite: Suite,
    integrity: Vec<u8>,
    encryption: [u8; BLOCK],
}

impl SessionKeys {
    /// Derives K1 and K2 from the session integrity key (section 13.32). The constants are 20 bytes with every
    /// suite: so do ipmitool, OpenIPMI and the BMCs they talk to.
    pub fn derive(suite: Suite, sik: &[u8]) -> Self {
        let k2 = suite.hmac(sik, &[&[0x02; 20]]);
        let mut encryption = [0; BLOCK];
        encryption.copy_from_slice(&k2[..BLOCK]); // a SHA-1 HMAC is 20 bytes, a SHA-256 one 32
        Self {
            suite,
            integrity: suite.hmac(sik, &[&[0x01; 20]]),
            encryption,
        }
    }

    /// The suite these keys are for.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// A whole datagram with `message` encrypted and authenticated. `iv` must be new random bytes each time.
    pub fn seal(&self, session_id: u32, sequence: u32, message: &[u8], iv: [u8; BLOCK]) -> Vec<u8> {
        let payload = self.encrypt(message, iv);
        let kind = PayloadType::Message.number() | 0xc0;
        let mut packet = RMCP_HEADER.to_vec();
        packet.extend_from_slice(&session_header(kind, session_id, sequence, payload.len()));
        packet.extend_from_slice(&payload);
        // header (12) + payload + pad + pad length (1) + next header (1) must be a multiple of 4
        let pad = (4 - (payload.len() + 2) % 4) % 4;
        packet.extend(std::iter::repeat_n(0xff, pad));
        packet.push(u8::try_from(pad).unwrap_or_default());
        packet.push(NEXT_HEADER);
        let code = self.suite.hmac(&self.integrity, &[&packet[RMCP_HEADER.len()..]]);
        packet.extend_from_slice(&code[..self.suite.code_length()]);
        packet
    }

    /// Checks the authentication code, then decrypts the IPMI message. How much padding stands before the code is not looked at, nor
    /// what stands after it: the code covers what counts, wherever it stands.
    pub fn open(&self, frame: &PlusFrame<'_>) -> Result<Vec<u8>, WireError> {
        if !frame.authenticated || !frame.encrypted || frame.payload_type != PayloadType::Message {
            return Err(WireError::Unprotected);
        }
        let code_length = self.suite.code_length();
        // Header, payload, pad length and next header.
        let least = 12 + frame.payload.len() + 2;
        let last = frame
            .session
            .len()
            .checked_sub(code_length)
            .filter(|last| *last >= least)
            .ok_or(WireError::Short)?;
        let places = std::iter::once(last).chain(least..last.min(least + 4));
        for at in places {
            let (covered, code) = frame.session.split_at(at);
            let code = &code[..code_length];
            if self.suite.verify(&self.integrity, &[covered], code, code_length) {
                return self.decrypt(frame.payload);
            }
        }
        Err(WireError::Integrity)
    }

    /// AES-CBC-128 payload (section 13.29): IV, then message + 01 02 03 .. + pad length, encrypted.
    fn encrypt(&self, message: &[u8], iv: [u8; BLOCK]) -> Vec<u8> {
        let mut text = message.to_vec();
        let pad = (BLOCK - (message.len() + 1) % BLOCK) % BLOCK;
        text.extend((1..=pad).map(|n| n as u8));
        text.push(pad as u8);
        let mut cipher = cbc::Encryptor::<Aes128>::new(&self.encryption.into(), &iv.into());
        for block in text.chunks_exact_mut(BLOCK) {
            if let Ok(block) = <&mut Array<u8, _>>::try_from(block) {
                cipher.encrypt_block(block);
            }
        }
        [iv.as_slice(), &text].concat()
    }

    fn decrypt(&self, payload: &[u8]) -> Result<Vec<u8>, WireError> {
        let (iv, text) = payload.split_first_chunk::<BLOCK>().ok_or(WireError::Padding)?;
        if text.is_empty() || !text.len().is_multiple_of(BLOCK) {
            return Err(WireError::Padding);
        }
        let mut text = text.to_vec();
        let mut cipher = cbc::Decryptor::<Aes128>::new(&self.encryption.into(), &(*iv).into());
        for block in text.chunks_exact_mut(BLOCK) {
            if let Ok(block) = <&mut Array<u8, _>>::try_from(block) {
                cipher.decrypt_block(block);
            }
        }
        let pad = usize::from(text.pop().ok_or(WireError::Padding)?);
        // What the padding holds is not looked at: some leave it 0.
        let length = text.len().checked_sub(pad).ok_or(WireError::Padding)?;
        if pad > BLOCK {
            return Err(WireError::Padding);
        }
        text.truncate(length);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Frame, parse};
    use super::*;

    fn keys(suite: Suite) -> SessionKeys {
        SessionKeys::derive(suite, b"a session integrity key")
    }

    #[test]
    fn what_is_sealed_is_opened_for_every_length() {
        for suite in [Suite::Three, Suite::Seventeen] {
            for length in 0..70 {
                let message: Vec<u8> = (0..length).collect();
                let packet = keys(suite).seal(9, 4, &message, [3; 16]);
                let Ok(Frame::Plus(frame)) = parse(&packet) else {
                    panic!("not a session packet")
                };
                assert_eq!(frame.session.len() % 4, 0);
                assert_eq!(keys(suite).open(&frame).as_deref(), Ok(message.as_slice()));
            }
        }
    }

    /// A datagram as firmware of other habits makes it: `fill` in the padding of the payload, `pad` bytes before the code, and
    /// something behind it.
    fn odd(suite: Suite, message: &[u8], (fill, pad, behind): (u8, usize, usize)) -> Vec<u8> {
        let keys = keys(suite);
        let mut text = message.to_vec();
        let length = (BLOCK - (message.len() + 1) % BLOCK) % BLOCK;
        text.resize(message.len() + length, fill);
        text.push(length as u8);
        let iv = [3; BLOCK];
        let mut cipher = cbc::Encryptor::<Aes128>::new(&keys.encryption.into(), &iv.into());
        for block in text.chunks_exact_mut(BLOCK) {
            cipher.encrypt_block(<&mut Array<u8, _>>::try_from(block).unwrap());
        }
        let payload = [iv.as_slice(), &text].concat();
        let kind = PayloadType::Message.number() | 0xc0;
        let mut session = session_header(kind, 9, 4, payload.len()).to_vec();
        session.extend_from_slice(&payload);
        session.resize(session.len() + pad, 0x00);
        session.extend_from_slice(&[pad as u8, 0x00]);
        let code = suite.hmac(&keys.integrity, &[&session]);
        session.extend_from_slice(&code[..suite.code_length()]);
        session.resize(session.len() + behind, 0xaa);
        [RMCP_HEADER.as_slice(), &session].concat()
    }

    #[test]
    fn padding_of_other_habits_is_looked_over() {
        for suite in [Suite::Three, Suite::Seventeen] {
            for (fill, pad, behind) in [
                (0x00, 2, 0),
                (0xff, 0, 0),
                (0x07, 3, 0),
                (0x00, 0, 4),
                (0x01, 1, 1),
                (0x00, 3, 60),
            ] {
                for length in [1, 8, 15, 16, 30] {
                    let message = vec![0x5a; length];
                    let packet = odd(suite, &message, (fill, pad, behind));
                    let Ok(Frame::Plus(frame)) = parse(&packet) else {
                        panic!("not a session packet")
                    };
                    let opened = keys(suite).open(&frame);
                    assert_eq!(opened, Ok(message), "{suite:?} {fill} {pad} {behind}");
                }
            }
        }
    }

    #[test]
    fn no_mutation_is_accepted_and_none_panics() {
        for suite in [Suite::Three, Suite::Seventeen] {
            let packet = keys(suite).seal(9, 4, &[1, 2, 3, 4, 5, 6, 7, 8], [3; 16]);
            for at in 4..packet.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut bad = packet.clone();
                    bad[at] ^= flip;
                    if let Ok(Frame::Plus(frame)) = parse(&bad) {
                        assert!(
                            keys(suite).open(&frame).is_err(),
                            "{suite:?} byte {at} ^ {flip:#x}"
                        );
                    }
                }
                if let Ok(Frame::Plus(frame)) = parse(&packet[..at]) {
                    assert!(keys(suite).open(&frame).is_err(), "{suite:?} cut at {at}");
                }
            }
        }
    }
}
