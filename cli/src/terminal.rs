//! Secrets from whoever sits at the terminal, or from standard input; never from the command line, where others can
//! read them. Nothing here shows or keeps one.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The terminal without its echo, until this is dropped.
struct Silence(Termios);

impl Silence {
    fn new() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let former = tcgetattr(&stdin).context("cannot ask the terminal for its settings")?;
        let mut silent = former.clone();
        silent.local_modes -= LocalModes::ECHO;
        silent.local_modes |= LocalModes::ECHONL;
        tcsetattr(&stdin, OptionalActions::Flush, &silent)
            .context("cannot switch the terminal's echo off")?;
        Ok(Self(former))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // There is nobody to tell: the process is about to end, or goes on with a silent terminal.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// One line: typed unseen after `prompt` at a terminal, else the next one of standard input.
///
/// # Errors
/// When there is no line.
pub(crate) fn secret(prompt: &str) -> anyhow::Result<String> {
    let mut line = String::new();
    let silence = if std::io::stdin().is_terminal() {
        // Silent before it asks: whoever types at once is not shown either.
        let silence = Silence::new()?;
        eprint!("{prompt}: ");
        std::io::stderr().flush()?;
        Some(silence)
    } else {
        None
    };
    let bytes = std::io::stdin().lock().read_line(&mut line)?;
    drop(silence);
    if bytes == 0 {
        bail!("standard input ended where a line was expected ({prompt})");
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A password: typed at the terminal, or from standard input if `from_stdin` says so.
///
/// # Errors
/// When neither is there.
pub(crate) fn password(prompt: &str, from_stdin: FromStdin) -> anyhow::Result<String> {
    if !from_stdin.password_stdin && !std::io::stdin().is_terminal() {
        bail!("standard input is no terminal: give --password-stdin to read the password from it");
    }
    secret(prompt)
}

/// A password that is chosen now: typed twice at the terminal, once from standard input.
///
/// # Errors
/// When the two differ, or as [`password`].
pub(crate) fn new_password(prompt: &str, from_stdin: FromStdin) -> anyhow::Result<String> {
    let chosen = password(prompt, from_stdin)?;
    if std::io::stdin().is_terminal() && secret("Once more")? != chosen {
        bail!("the two passwords differ; nothing was changed");
    }
    Ok(chosen)
}

/// Where a password comes from.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct FromStdin {
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}
