use super::*;
use uuid::Uuid;

const MACHINE: MachineId = MachineId(Uuid::from_u128(1));

fn job(n: u128) -> JobId {
    JobId(Uuid::from_u128(n))
}

fn chunk(boot: u128, offset: u64, text: &str) -> LogChunk {
    LogChunk {
        job: job(1),
        boot: Some(BootId(Uuid::from_u128(boot))),
        offset,
        text: text.to_owned(),
    }
}

/// Sends all that is due.
fn flush(logs: &JobLogs) -> String {
    let mut all = String::new();
    loop {
        let due = logs.due();
        if due.is_empty() {
            return all;
        }
        for (_, chunk) in due {
            logs.sent(&chunk);
            all.push_str(&chunk.text);
        }
    }
}

#[test]
fn what_an_agent_repeats_is_taken_once_and_what_is_lost_is_told() {
    let logs = JobLogs::default();
    logs.hear(MACHINE, chunk(1, 0, "a\n"));
    logs.hear(MACHINE, chunk(1, 0, "a\nb\n"));
    logs.hear(MACHINE, chunk(1, 0, "a\n"));
    logs.hear(MACHINE, chunk(1, 9, "c\u{1b}\n"));
    logs.hear(MACHINE, chunk(2, 0, "booted\n"));
    let nameless = LogChunk {
        boot: None,
        ..chunk(1, 12, "of no boot\n")
    };
    logs.hear(MACHINE, nameless);
    logs.hear(MACHINE, chunk(2, 7, &"x".repeat(MAX_CHUNK_BYTES + 1)));
    let expected = "a\nb\n[5 bytes of the agent's log are missing]\nc?\nbooted\n";
    assert_eq!(logs.text(job(1)), expected);
}

#[test]
fn what_the_control_plane_lacks_is_sent_again_and_nothing_else() {
    let logs = JobLogs::default();
    logs.say(MACHINE, job(1), &["one\n".into(), "two\n".into()]);
    assert_eq!(flush(&logs), "one\ntwo\n");
    let told = logs.told();
    assert_eq!(
        told.iter().map(|log| (log.start, log.sent)).collect::<Vec<_>>(),
        [(0, 8)]
    );
    logs.say(MACHINE, job(1), &["three\n".into()]);
    let (_, late) = logs.due().remove(0);
    logs.sent(&late);
    let held = |end| [LogHeld { job: job(1), end }];
    logs.confirm(&held(4));
    assert_eq!(
        flush(&logs),
        "two\nthree\n",
        "from where the control plane's log ends"
    );
    assert_eq!(logs.told().len(), 1);
    logs.confirm(&held(14));
    assert_eq!(flush(&logs), "");
    assert!(logs.told().is_empty(), "all is known to have arrived");
    logs.confirm(&held(99));
    logs.say(MACHINE, job(1), &["four\n".into()]);
    assert_eq!(
        flush(&logs),
        "four\n",
        "a control plane that says too much loses nothing"
    );
}

#[test]
fn a_machine_has_its_last_two_logs_and_each_its_newest_end() {
    let logs = JobLogs::default();
    for n in 1..=3 {
        logs.say(MACHINE, job(n), &[format!("{n}\n")]);
    }
    assert_eq!(logs.jobs(), [job(2), job(3)]);
    assert_eq!(logs.unkept().gone, [job(1)]);
    logs.kept(&logs.unkept());
    let unkept = logs.unkept();
    assert!(unkept.gone.is_empty() && unkept.logs.is_empty());
    let line = format!("{}\n", "x".repeat(1023));
    logs.say(MACHINE, job(3), &vec![line; 300]);
    assert_eq!(logs.text(job(3)).len(), MAX_JOB_BYTES);
    assert_eq!(logs.text(job(2)), "2\n");
    let due = logs.due();
    assert_eq!(due.len(), 1, "one message a machine at a time");
    assert_eq!(due[0].1.job, job(2), "the older job goes first");
}

#[test]
fn what_is_on_disk_is_taken_up_and_gone_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let store = crate::store::Store::open(&dir.path().join("edge.db")).unwrap();
    let keep = |logs: &JobLogs| {
        let unkept = logs.unkept();
        store.put_logs(&unkept).unwrap();
        logs.kept(&unkept);
    };
    let logs = JobLogs::default();
    logs.hear(MACHINE, chunk(1, 0, "one\n"));
    keep(&logs);
    logs.hear(MACHINE, chunk(1, 4, "two\n"));
    assert_eq!(flush(&logs), "one\ntwo\n");
    assert_eq!(logs.told().len(), 1);
    logs.confirm(&[LogHeld { job: job(1), end: 4 }]);
    keep(&logs);
    logs.say(MACHINE, job(2), &["later\n".into()]);
    logs.say(MACHINE, job(3), &["lost with the process\n".into()]);

    let logs = JobLogs::default();
    logs.take_up(store.logs().unwrap());
    assert_eq!(logs.text(job(1)), "one\ntwo\n");
    logs.hear(MACHINE, chunk(1, 4, "two\nthree\n"));
    assert_eq!(
        flush(&logs),
        "two\nthree\n",
        "what was not confirmed goes out again"
    );
    for n in 4..=5 {
        logs.say(MACHINE, job(n), &["more\n".into()]);
    }
    keep(&logs);
    let held: Vec<JobId> = store.logs().unwrap().into_iter().map(|(job, _)| job).collect();
    assert_eq!(held, [job(4), job(5)]);
}
