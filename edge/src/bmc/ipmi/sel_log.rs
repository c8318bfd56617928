//! Reading the System Event Log entry by entry, within bounds. What the bytes mean is [`super::sel`]'s.

use tokio::time::Instant;

use super::{
    super::{
        BmcError,
        event_log::{Bounds, EventLog, Mark},
    },
    IpmiBmc,
    sel::{self, FIRST, Info, LAST, PRE_INIT, RECORD_BYTES, Record},
    sel_faults,
};

/// How often a record is asked for anew after a reservation was lost.
const TRIES: u32 = 3;

/// One reading.
struct Reading<'a> {
    bmc: &'a IpmiBmc,
    info: Info,
    mark: Option<&'a Mark>,
    bounds: Bounds,
    until: Instant,
    /// Needed for records in parts only, and by some BMCs for all.
    reservation: u16,
}

/// A record, and the number of the one after it.
type Link = (Record, u16);

/// Reads what the log holds after `mark`. `None`: this BMC has no log.
pub(super) async fn read(
    bmc: &IpmiBmc,
    mark: Option<&Mark>,
    bounds: Bounds,
) -> Result<Option<EventLog>, BmcError> {
    let until = Instant::now() + bounds.time;
    let info = match bmc.ask(sel::GET_INFO, &[]).await? {
        (0x00, data) => sel::info(&data).ok_or_else(|| bmc.unreadable(sel::GET_INFO))?,
        // No such command, not here, not present, or switched off.
        (0xc1 | 0xc2 | 0xcb | 0xd6, _) => return Ok(None),
        (completion, _) => return Err(bmc.refused(sel::GET_INFO, completion)),
    };
    // Its clock is a help; a log without one is a log.
    let clock = match bmc.ask(sel::GET_TIME, &[]).await? {
        (0x00, data) => sel::time(&data),
        _ => None,
    };
    let mut reading = Reading {
        bmc,
        info,
        mark,
        bounds,
        until,
        reservation: 0,
    };
    let mut log = reading.log().await?;
    log.clock = clock.filter(|clock| *clock != sel::NO_TIME);
    Ok(Some(log))
}

impl Reading<'_> {
    async fn log(&mut self) -> Result<EventLog, BmcError> {
        if self.info.entries == 0 {
            return Ok(self.nothing());
        }
        let mark = self
            .mark
            .filter(|mark| !mark.raw.is_empty())
            .map(|mark| mark.record);
        let starts = match self.record(LAST).await? {
            Some((last, _)) if self.is_mark(&last) => {
                let mut log = self.nothing();
                log.mark = self.mark_at(&last);
                return Ok(log);
            }
            Some((last, _)) => sel::starts(last.id, mark, self.info.entries, self.bounds.entries),
            None => vec![FIRST],
        };
        for start in starts {
            let Some(first) = self.record(start).await? else {
                continue;
            };
            // The record of the mark's number is another one: the log was cleared, or began anew.
            if Some(start) == mark && !self.is_mark(&first.0) {
                continue;
            }
            return self.walk(first).await;
        }
        Ok(self.nothing())
    }

    /// From one record to the next until the end.
    async fn walk(&mut self, first: Link) -> Result<EventLog, BmcError> {
        let (mut record, mut next) = first;
        let mut log = self.nothing();
        for read in 1.. {
            if self.is_mark(&record) {
                log.entries.clear();
            } else {
                log.entries.push(sel_faults::entry(&record));
            }
            log.mark = self.mark_at(&record);
            if matches!(next, FIRST | LAST) {
                break;
            }
            if read >= self.bounds.entries || Instant::now() >= self.until {
                log.complete = false;
                break;
            }
            if next == record.id {
                return Err(self.bmc.nonsense(sel::GET_ENTRY, "an entry that follows itself"));
            }
            match self.record(next).await? {
                Some(link) => (record, next) = link,
                // It went while we read.
                None => break,
            }
        }
        Ok(log)
    }

    /// A log with no entry that is new.
    fn nothing(&self) -> EventLog {
        EventLog {
            clock: None,
            entries: Vec::new(),
            complete: true,
            mark: Mark {
                record: 0,
                raw: String::new(),
                cleared_at: self.info.cleared_at,
            },
        }
    }

    fn mark_at(&self, record: &Record) -> Mark {
        Mark {
            record: record.id,
            raw: record.hex(),
            cleared_at: self.info.cleared_at,
        }
    }

    /// Whether this is the very record that was seen last. Of one without a real time there may be another just like it in
    /// a log that was cleared.
    fn is_mark(&self, record: &Record) -> bool {
        self.mark.is_some_and(|mark| {
            let timed = record.time().is_some_and(|time| time >= PRE_INIT);
            mark.raw == record.hex() && (timed || mark.cleared_at == self.info.cleared_at)
        })
    }

    /// One record; none if the log does not have it.
    async fn record(&mut self, number: u16) -> Result<Option<Link>, BmcError> {
        for _ in 0..TRIES {
            match self.part(number, 0, 0xff).await? {
                (0x00, data) => return self.link(&data).map(Some),
                (0xc9 | 0xcb | 0xcc, _) => return Ok(None),
                // The reservation is gone, or needed after all.
                (0xc5, _) => self.reserve().await?,
                // It cannot give so much at once.
                (0xc8 | 0xca, _) => return self.in_halves(number).await,
                (completion, _) => return Err(self.bmc.refused(sel::GET_ENTRY, completion)),
            }
        }
        Err(self.bmc.refused(sel::GET_ENTRY, 0xc0))
    }

    async fn in_halves(&mut self, number: u16) -> Result<Option<Link>, BmcError> {
        const HALF: u8 = 8;
        self.reserve().await?;
        let mut whole = Vec::new();
        for offset in [0, HALF] {
            let (completion, data) = self.part(number, offset, HALF).await?;
            if completion != 0x00 {
                return Err(self.bmc.refused(sel::GET_ENTRY, completion));
            }
            let (next, half) =
                sel::part(&data, usize::from(HALF)).ok_or_else(|| self.bmc.unreadable(sel::GET_ENTRY))?;
            if whole.is_empty() {
                whole.extend(next.to_le_bytes());
            }
            whole.extend(half);
        }
        self.link(&whole).map(Some)
    }

    async fn part(&self, number: u16, offset: u8, bytes: u8) -> Result<(u8, Vec<u8>), BmcError> {
        let request = sel::entry_request(self.reservation, number, offset, bytes);
        self.bmc.ask(sel::GET_ENTRY, &request).await
    }

    fn link(&self, data: &[u8]) -> Result<Link, BmcError> {
        let unreadable = || self.bmc.nonsense(sel::GET_ENTRY, "an entry of another length");
        let (next, raw) = sel::part(data, RECORD_BYTES).ok_or_else(unreadable)?;
        let raw = raw.try_into().map_err(|_| unreadable())?;
        Ok((Record::new(raw), next))
    }

    async fn reserve(&mut self) -> Result<(), BmcError> {
        let data = self.bmc.command(sel::RESERVE, &[]).await?;
        self.reservation = sel::reservation(&data).ok_or_else(|| self.bmc.unreadable(sel::RESERVE))?;
        Ok(())
    }
}
