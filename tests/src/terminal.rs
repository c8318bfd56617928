//! A terminal with somebody at it: commands run at a real pseudo-terminal, what they show is read as it appears, and
//! they are answered when they ask. It must never write to a command that has not asked.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::world::wait_for;

/// A question at the terminal, and what is typed then.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The end of the question as it is shown, as in `Password: `.
    pub question: &'static str,
    /// The line that is typed.
    pub text: String,
}

/// A command that runs at a terminal of its own; it is killed when this is dropped.
pub struct Running {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
}

impl Running {
    /// Starts a command: its standard input, output and errors are the terminal.
    ///
    /// # Errors
    /// When there is no terminal to be had, or the command cannot be started.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&terminal)?;
        unlockpt(&terminal)?;
        let name = ptsname(&terminal, Vec::new())?;
        let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let end = File::options().read(true).write(true).open(path)?;
        command
            .stdin(end.try_clone()?)
            .stdout(end.try_clone()?)
            .stderr(end);
        let child = command.spawn().context("cannot start a command at a terminal")?;
        // The command's ends are closed here with it: the terminal ends when the last process that has it does.
        drop(command);
        let screen = Arc::default();
        watch(terminal.try_clone()?, &screen)?;
        let keyboard = File::from(terminal);
        Ok(Self {
            child,
            keyboard,
            screen,
        })
    }

    /// All that was shown so far.
    #[must_use]
    pub fn screen(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the command still runs.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Answers each question as it comes.
    ///
    /// # Errors
    /// When a question does not come within `limit`.
    pub async fn answer(&mut self, answers: &[Answer], limit: Duration) -> anyhow::Result<()> {
        let mut seen = 0;
        for Answer { question, text } in answers {
            let asked = || {
                let screen = self.screen();
                screen[seen..].find(question).map(|at| seen + at + question.len())
            };
            let asked = wait_for(&format!("the question `{question}`"), limit, asked).await;
            seen = asked.with_context(|| self.screen())?;
            writeln!(self.keyboard, "{text}")?;
        }
        Ok(())
    }

    /// Waits until the command has ended.
    ///
    /// # Errors
    /// When it does not end within `limit`, or ends otherwise than well; with all it showed.
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<String> {
        let child = &mut self.child;
        let ended = wait_for("the command's end", limit, || child.try_wait().transpose()).await;
        let status: ExitStatus = ended.with_context(|| self.screen())??;
        if !status.success() {
            bail!("{status}\n{}", self.screen());
        }
        // What it wrote last may still be on its way to the screen, which ends with the terminal's last holder.
        let shown = || (Arc::strong_count(&self.screen) == 1).then(|| self.screen());
        wait_for("the end of what it shows", limit, shown).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes down what is shown until nobody holds the terminal's other end.
fn watch(terminal: OwnedFd, screen: &Arc<Mutex<String>>) -> anyhow::Result<()> {
    let screen = Arc::clone(screen);
    let mut terminal = File::from(terminal);
    std::thread::Builder::new().name("screen".into()).spawn(move || {
        let mut bytes = [0; 4096];
        // An error is the end: Linux says EIO when the last holder of the other end is gone.
        while let Ok(n @ 1..) = terminal.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..n]).replace('\r', "");
            screen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&text);
        }
    })?;
    Ok(())
}
