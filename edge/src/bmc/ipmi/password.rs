//! Gives the user a BMC is reached by a new password, and sees that it holds. Whatever is lost on the way, it ends with what
//! the BMC itself proves to know: it must never say that a password was changed, or was not, on less than that.

use slipway_protocol::seal::Secret;

use super::{super::BmcError, IpmiBmc, session::Session, users};

/// Changes the password; done at once when a former attempt did.
///
/// # Errors
/// [`BmcError::PasswordRefused`] when the former one is in force after all and will stay so, [`BmcError::PasswordUnknown`]
/// when the BMC proves neither. After any other error either of the two may be in force.
pub(super) async fn change(bmc: &IpmiBmc, new: &Secret) -> Result<(), BmcError> {
    let new = new.reveal();
    let mut known = vec![new.to_owned()];
    known.extend(bmc.credentials.passwords.iter().filter(|p| *p != new).cloned());
    let mut session = bmc.log_in(known).await?;
    if session.password() == new {
        session.close().await;
        return Ok(());
    }
    let former = session.password().to_owned();
    let mut set = set(bmc, &mut session, new).await;
    let mut proof = prove(bmc, (new, &former), set.is_ok()).await;
    if matches!(proof, Ok(Proof::Neither)) {
        // It stored something else than it was told. This session is still good for setting that right.
        set = Err(set_back(bmc, &mut session, &former).await);
        proof = prove(bmc, (new, &former), false).await;
    }
    session.close().await;
    judge(bmc, proof?, set)
}

/// Which password a BMC proves to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    New,
    Former,
    Neither,
}

/// What the proof and the answer to the change come to.
fn judge(bmc: &IpmiBmc, proof: Proof, set: Result<(), BmcError>) -> Result<(), BmcError> {
    let name = || bmc.name.clone();
    match (proof, set) {
        (Proof::New, _) => Ok(()),
        (Proof::Neither, _) => Err(BmcError::PasswordUnknown { bmc: name() }),
        (Proof::Former, Err(error)) if is_refusal(&error) => Err(BmcError::PasswordRefused {
            bmc: name(),
            reason: error.to_string(),
        }),
        // It was not heard, or its answer was not: another attempt may do better.
        (Proof::Former, Err(error)) => Err(error),
        (Proof::Former, Ok(())) => Err(BmcError::PasswordRefused {
            bmc: name(),
            reason: "it accepted the new password and went on with the former one".to_owned(),
        }),
    }
}

/// Whether the BMC answered, and said no. Whatever the completion code: the same password is not better the next time.
fn is_refusal(error: &BmcError) -> bool {
    matches!(
        error,
        BmcError::Completion { .. }
            | BmcError::Privilege { .. }
            | BmcError::NoSuchUser { .. }
            | BmcError::PasswordRefused { .. }
    )
}

/// Opens a session to see which password is in force. `expected` waits a little for the new one: some BMCs answer first and
/// store then.
async fn prove(bmc: &IpmiBmc, (new, former): (&str, &str), expected: bool) -> Result<Proof, BmcError> {
    let mut tries = if expected { bmc.timing.busy_tries } else { 0 };
    loop {
        let proof = match bmc.log_in(vec![new.to_owned(), former.to_owned()]).await {
            Ok(session) => {
                let is_new = session.password() == new;
                session.close().await;
                if is_new { Proof::New } else { Proof::Former }
            }
            Err(BmcError::Credentials { .. }) => Proof::Neither,
            Err(error) => return Err(error),
        };
        if proof == Proof::New || tries == 0 {
            return Ok(proof);
        }
        tries -= 1;
        tokio::time::sleep(bmc.timing.busy_pause).await;
    }
}

async fn set(bmc: &IpmiBmc, session: &mut Session, password: &str) -> Result<(), BmcError> {
    let id = own_id(bmc, session).await?;
    write(bmc, session, (id, password)).await
}

/// Sets the former password again; answers what is to be told if that holds.
async fn set_back(bmc: &IpmiBmc, session: &mut Session, former: &str) -> BmcError {
    match set(bmc, session, former).await {
        Err(error) => error,
        Ok(()) => BmcError::PasswordRefused {
            bmc: bmc.name.clone(),
            reason: "it stored another password than it was given; the former one was set again".to_owned(),
        },
    }
}

/// In 16 bytes, which every BMC takes, where it fits; in 20 where it does not, or the BMC takes nothing else.
async fn write(bmc: &IpmiBmc, session: &mut Session, (id, password): (u8, &str)) -> Result<(), BmcError> {
    let mut last = 0xc7;
    for bytes in [users::SHORT, users::LONG] {
        let Some(data) = users::set_password(id, password, bytes) else {
            continue;
        };
        (last, _) = bmc.patiently(session, users::SET_PASSWORD, &data).await?;
        // 0xC7/0xC8: of the wrong length
        if !matches!(last, 0xc7 | 0xc8) {
            break;
        }
    }
    match last {
        0x00 => Ok(()),
        completion => Err(bmc.refused(users::SET_PASSWORD, completion)),
    }
}

/// The id of the user this logs in as: the first of the name, as in a login by name alone.
async fn own_id(bmc: &IpmiBmc, session: &mut Session) -> Result<u8, BmcError> {
    let answer = bmc
        .patiently(session, users::GET_ACCESS, &users::first_access())
        .await?;
    let highest = match answer {
        (0x00, data) => users::highest_id(&data).ok_or_else(|| bmc.unreadable(users::GET_ACCESS))?,
        (completion, _) => return Err(bmc.refused(users::GET_ACCESS, completion)),
    };
    for id in 1..=highest {
        match bmc.patiently(session, users::GET_NAME, &[id]).await? {
            (0x00, data) if users::is_name(&data, &bmc.credentials.user) => return Ok(id),
            (0xd4, _) => return Err(bmc.refused(users::GET_NAME, 0xd4)),
            // Of another name, or an empty place, which some BMCs refuse to name.
            _ => {}
        }
    }
    Err(BmcError::NoSuchUser {
        bmc: bmc.name.clone(),
    })
}
