//! `slipway-edge local`: asks the running edge over its socket. The emergency code comes from the terminal, unseen, or from a
//! file; never from the command line, where others can read it.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use slipway_protocol::{lease::Operation, seal::Secret};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::{Answer, MachineView, Request, server};
use crate::store::Entry;

/// What can be asked of the running edge.
#[derive(Debug, Subcommand)]
pub enum Local {
    /// List the machines that may be operated here, and how
    List,
    /// Show one of them
    Show {
        /// Its name or id
        machine: String,
    },
    /// Switch a machine off and on
    Restart(Target),
    /// Switch a machine off
    PowerOff(Target),
    /// Switch a machine on
    PowerOn(Target),
    /// Boot a machine into the LiveOS, with its instance's keys let in
    Rescue(Target),
    /// Give a machine back: its instance ends
    Release(Target),
    /// Show what was asked for here, and what came of it
    Log,
}

/// Which machine, and how the code comes.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// Its name or id
    machine: String,
    /// Do not ask whether it is meant; a release asks for the machine's name all the same
    #[arg(long)]
    yes: bool,
    /// Read the emergency code from a file, or from standard input if it is `-`
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
}

/// Carries a command out.
///
/// # Errors
/// When the edge does not run, or refuses.
pub async fn run(command: Local, data_dir: &Path) -> anyhow::Result<()> {
    let socket = server::path(data_dir);
    let (operation, target) = match command {
        Local::List => return list(&socket, None).await,
        Local::Show { machine } => return list(&socket, Some(machine)).await,
        Local::Log => return log(&socket).await,
        Local::Restart(target) => (Operation::Restart, target),
        Local::PowerOff(target) => (Operation::PowerOff, target),
        Local::PowerOn(target) => (Operation::PowerOn, target),
        Local::Rescue(target) => (Operation::Rescue, target),
        Local::Release(target) => (Operation::Release, target),
    };
    let from_stdin = target.code_file.as_deref() == Some(Path::new("-"));
    let code = code(target.code_file.as_deref())?;
    confirm(operation, &target, from_stdin)?;
    let request = Request::Do {
        operation,
        machine: target.machine.clone(),
        code,
    };
    match ask(&socket, &request).await? {
        Answer::Taken { job } => {
            println!(
                "{} of {} is begun (job {job}); `slipway-edge local show {}` says how it stands.",
                operation.word(),
                target.machine,
                target.machine
            );
            Ok(())
        }
        other => refused(other),
    }
}

fn refused(answer: Answer) -> anyhow::Result<()> {
    match answer {
        Answer::Refused { code, message } => bail!("{message} ({code})"),
        _ => bail!("the running edge answers something else: is it of another version?"),
    }
}

async fn ask(socket: &Path, request: &Request) -> anyhow::Result<Answer> {
    let connected = UnixStream::connect(socket).await;
    let mut stream = connected.with_context(|| {
        format!(
            "cannot reach the running edge at {}: run this as root on the edge box, with slipway-edge running",
            socket.display()
        )
    })?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    serde_json::from_str(&answer).context("the running edge hung up; its log says why")
}

async fn list(socket: &Path, only: Option<String>) -> anyhow::Result<()> {
    let (cut_off_since, machines) = match ask(socket, &Request::List).await? {
        Answer::Machines {
            cut_off_since,
            machines,
        } => (cut_off_since, machines),
        other => return refused(other),
    };
    match cut_off_since {
        Some(since) => println!("Cut off since {}.", since.format("%F %T UTC")),
        None => println!("Not cut off: operations are refused here, use `slipway instance ...`."),
    }
    let wanted = |m: &&MachineView| {
        only.as_ref()
            .is_none_or(|only| m.name == *only || m.machine.to_string() == *only)
    };
    let shown: Vec<&MachineView> = machines.iter().filter(wanted).collect();
    if let (Some(only), true) = (&only, shown.is_empty()) {
        bail!("there is no lease of a machine `{only}` (no_lease)");
    }
    shown.into_iter().for_each(|machine| println!("{}", row(machine)));
    Ok(())
}

/// A machine in one line.
fn row(m: &MachineView) -> String {
    let open: Vec<&str> = m.open.iter().map(|operation| operation.word()).collect();
    let open = if open.is_empty() {
        "nothing".to_owned()
    } else {
        open.join(", ")
    };
    format!(
        "{}  instance {}  last order {}  until {}: {open}",
        m.name,
        m.instance.as_deref().unwrap_or("-"),
        m.last.as_deref().unwrap_or("-"),
        m.until.format("%F %R UTC"),
    )
}

async fn log(socket: &Path) -> anyhow::Result<()> {
    match ask(socket, &Request::Log).await? {
        Answer::Log { lines } => lines.iter().for_each(|line| println!("{}", told(line))),
        other => return refused(other),
    }
    Ok(())
}

/// A line of the journal.
fn told(line: &Entry) -> String {
    let end = match (&line.refused, line.job) {
        (Some(code), _) => format!("refused: {code}"),
        (None, Some(job)) => format!("job {job}"),
        (None, None) => "?".to_owned(),
    };
    format!(
        "{}  uid {}  {} {}  {end}",
        line.at.format("%F %T UTC"),
        line.uid,
        line.operation.word(),
        line.machine
    )
}

/// Asks whether it is meant; a release asks for the machine's name.
fn confirm(operation: Operation, target: &Target, stdin_is_taken: bool) -> anyhow::Result<()> {
    let names = operation == Operation::Release;
    if target.yes && !names {
        return Ok(());
    }
    if stdin_is_taken {
        bail!("standard input was read for the code: give --code-file FILE, so that you can be asked");
    }
    let expected = if names {
        eprint!(
            "This ends the instance on {0}. Type the machine's name ({0}): ",
            target.machine
        );
        target.machine.as_str()
    } else {
        eprint!("{} {}? Type yes: ", operation.word(), target.machine);
        "yes"
    };
    std::io::stderr().flush()?;
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed)?;
    if typed.trim() != expected {
        bail!("nothing was done");
    }
    Ok(())
}

fn code(file: Option<&Path>) -> anyhow::Result<Secret> {
    let text = match file {
        Some(path) if path == Path::new("-") => {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            line
        }
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => typed_unseen("Emergency code")?,
    };
    if text.trim().is_empty() {
        bail!("no emergency code was given");
    }
    Ok(Secret::new(text.trim()))
}

/// The terminal without its echo, until this is dropped.
struct Silence(Termios);

impl Drop for Silence {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn typed_unseen(prompt: &str) -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!(
            "standard input is no terminal: give --code-file FILE, or --code-file - to read the code from it"
        );
    }
    let former = tcgetattr(&stdin).context("cannot ask the terminal for its settings")?;
    let mut silent = former.clone();
    silent.local_modes -= LocalModes::ECHO;
    silent.local_modes |= LocalModes::ECHONL;
    tcsetattr(&stdin, OptionalActions::Flush, &silent).context("cannot switch the terminal's echo off")?;
    let _silence = Silence(former);
    eprint!("{prompt}: ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    Ok(line)
}
