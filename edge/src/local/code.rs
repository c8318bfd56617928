//! The emergency code: compared with its hash, and not guessed. The time is an argument.

use argon2::{
    Argon2,
    password_hash::{PasswordVerifier as _, phc::PasswordHash},
};
use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::{seal::Secret, site::emergency_code_text};

/// Wrong codes in a row before the next one must wait.
const TRIES: i32 = 5;
/// How long until there is another try.
const REFILL: TimeDelta = TimeDelta::seconds(60);

/// How many tries are left: a bucket that fills by one a minute.
#[derive(Debug)]
pub(super) struct Tries {
    left: i32,
    at: DateTime<Utc>,
}

impl Tries {
    /// All of them.
    pub(super) fn full(now: DateTime<Utc>) -> Self {
        Self { left: TRIES, at: now }
    }

    /// Takes one; `false` if none is left.
    pub(super) fn take(&mut self, now: DateTime<Utc>) -> bool {
        while self.left < TRIES && now - self.at >= REFILL {
            self.left += 1;
            self.at += REFILL;
        }
        if self.left >= TRIES || now < self.at {
            self.at = now;
        }
        if self.left <= 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    /// Gives one back: the code was right.
    pub(super) fn give_back(&mut self) {
        self.left = (self.left + 1).min(TRIES);
    }
}

/// Whether a code is the one whose hash is kept; computed on a thread of its own, as it takes a while by design.
pub(super) async fn fits(code: Secret, kept: String) -> bool {
    let compare = move || {
        let code = emergency_code_text(code.reveal());
        let verify = |kept: PasswordHash| Argon2::default().verify_password(code.as_bytes(), &kept).is_ok();
        PasswordHash::new(&kept).is_ok_and(verify)
    };
    tokio::task::spawn_blocking(compare).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::password_hash::PasswordHasher as _;

    #[tokio::test]
    async fn a_code_is_typed_in_many_ways_and_only_the_right_one_fits() {
        let kept = Argon2::default()
            .hash_password(emergency_code_text("0a1b-2c3d").as_bytes())
            .unwrap()
            .to_string();
        for typed in ["0a1b-2c3d", "0A1B2C3D", " 0a1b 2c3d\n"] {
            assert!(fits(Secret::new(typed), kept.clone()).await, "{typed}");
        }
        for typed in ["", "0a1b-2c3e"] {
            assert!(!fits(Secret::new(typed), kept.clone()).await, "{typed}");
        }
        assert!(!fits(Secret::new("0a1b-2c3d"), "not a hash".into()).await);
    }

    #[test]
    fn wrong_codes_run_out_and_come_back_one_a_minute() {
        let at = |s| DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(s);
        let mut tries = Tries::full(at(0));
        let taken: Vec<bool> = (0..7).map(|_| tries.take(at(1))).collect();
        assert_eq!(taken, [true, true, true, true, true, false, false]);
        assert!(!tries.take(at(60)), "59 s after the first");
        assert!(tries.take(at(61)) && !tries.take(at(61)));
        tries.give_back();
        assert!(tries.take(at(62)));
        let taken = (0..20).filter(|_| tries.take(at(10_000))).count();
        assert_eq!(taken, 5, "never more than all of them");
        assert!(!tries.take(at(0)), "a clock that goes back gives none");
    }
}
