//! A newcomer: a lab with a blank machine, nothing installed but the binaries, and somebody who types what a handbook
//! says, word for word. What is known of Slipway here is only where a command is typed and what it asks.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, bail, ensure};
use slipway_lab::{
    commands::{
        down::{Disks, down},
        exec::{Place, command},
        up::Spec,
    },
    state::{Lab, LabId},
};

use crate::{
    terminal::{Answer, Running},
    world::{Parts, fresh_lab, wait_for},
};

/// The centre's address in handbooks.
const CENTRE: &str = "203.0.113.5";
/// How long a question, a link or a command's end may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The password that the newcomer chooses.
const PASSWORD: &str = "correct horse battery";

/// A newcomer at work.
pub struct Newcomer {
    id: LabId,
    lab: Lab,
    parts: Parts,
    folder: PathBuf,
    /// Each command that was typed, in order, and what it showed; what runs on has its screen in `services`.
    typed: Vec<(String, String)>,
    services: Vec<(String, Running)>,
}

impl Newcomer {
    /// A lab named `name` where nothing of Slipway runs, with an image `debian.raw` and an SSH key in the newcomer's folder.
    ///
    /// # Errors
    /// When the lab cannot be made; nothing is left then.
    pub fn arrive(name: &str, spec: &Spec, parts: Parts) -> anyhow::Result<Self> {
        let (id, lab) = fresh_lab(name, spec, &parts)?;
        let newcomer = Self {
            folder: id.folder().join("newcomer"),
            id,
            lab,
            parts,
            typed: Vec::new(),
            services: Vec::new(),
        };
        newcomer.settle()?;
        Ok(newcomer)
    }

    /// The address of the handbook becomes one of the centre's, so that no command needs to be changed.
    fn settle(&self) -> anyhow::Result<()> {
        let centre = self.lab.centre_address.to_string();
        let own = format!("{CENTRE}/32");
        std::fs::create_dir_all(self.folder.join(".ssh"))?;
        std::fs::copy(self.parts.guest("tiny"), self.folder.join("debian.raw"))?;
        let key = self.folder.join(".ssh/id_ed25519").display().to_string();
        for (place, words) in [
            (Place::Centre, vec!["ip", "addr", "add", &own, "dev", "lo"]),
            (Place::Site, vec!["ip", "route", "add", &own, "via", &centre]),
            (
                Place::Centre,
                vec!["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &key],
            ),
        ] {
            let done = command(&self.id, place, words[0])?.args(&words[1..]).output()?;
            ensure!(
                done.status.success(),
                "{words:?}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok(())
    }

    /// Types a command where it belongs, answers what it asks, and waits for its end; one that serves is left running.
    ///
    /// # Errors
    /// When it is not a command of Slipway's, asks what nobody can answer, or does not end well in time.
    pub async fn types(&mut self, line: &str) -> anyhow::Result<()> {
        self.run(line).await.with_context(|| format!("$ {line}"))
    }

    async fn run(&mut self, line: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (place, serves) = match (words.first(), words.last()) {
            (Some(&"slipway-control-plane"), _) => (Place::Centre, true),
            (Some(&"slipway-edge"), last) => (Place::Site, last == Some(&"run")),
            (Some(&"slipway"), _) => (Place::Centre, false),
            _ => bail!("this is no command of Slipway's: who should type it, and where?"),
        };
        let answers = self.answers(line)?;
        let mut running = Running::start(self.shell(place, line)?)?;
        if serves {
            if words[0] == "slipway-control-plane" {
                let link = || running.screen().contains("token=").then_some(());
                wait_for("the set-up link", LIMIT, link)
                    .await
                    .with_context(|| running.screen())?;
            }
            self.services.push((line.to_owned(), running));
            return Ok(());
        }
        running.answer(&answers, LIMIT).await?;
        let screen = running.ended(LIMIT).await?;
        self.typed.push((line.to_owned(), screen));
        Ok(())
    }

    /// A shell that becomes the command, with the folders that a handbook takes for granted.
    fn shell(&self, place: Place, line: &str) -> anyhow::Result<Command> {
        let data = if matches!(place, Place::Centre) {
            "control-plane"
        } else {
            "edge"
        };
        let system = std::env::var("PATH").unwrap_or_default();
        let mut shell = command(&self.id, place, "sh")?;
        shell
            .args(["-c", &format!("exec {line}")])
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", format!("{}:{system}", self.parts.binaries.display()))
            .env("HOME", &self.folder)
            .env("SLIPWAY_DATA_DIR", self.folder.join(data))
            .env("SLIPWAY_LIVEOS", &self.parts.liveos);
        Ok(shell)
    }

    /// What the newcomer will be asked, and knows from what was shown before.
    fn answers(&self, line: &str) -> anyhow::Result<Vec<Answer>> {
        let one = |question, text: &str| {
            let text = text.to_owned();
            Answer { question, text }
        };
        Ok(if line.contains(" login ") && line.contains(" --setup") {
            vec![one("Set-up token: ", &self.shown("token=")?)]
        } else if line.contains(" me set-password") {
            vec![one("New password: ", PASSWORD), one("Once more: ", PASSWORD)]
        } else if line.ends_with(" join -") {
            vec![one("Join token: ", &self.shown("token ")?)]
        } else if line.contains(" --bmc-password-file -") {
            vec![one("Password of the BMC: ", &self.lab.bmc_password)]
        } else {
            Vec::new()
        })
    }

    /// The word that was shown after `mark`, on whichever screen showed it last.
    fn shown(&self, mark: &str) -> anyhow::Result<String> {
        let services = self.services.iter().map(|(_, running)| running.screen());
        let screens = services.chain(self.typed.iter().map(|(_, screen)| screen.clone()));
        let mut words = screens.filter_map(|screen| {
            let (_, rest) = screen.split_once(mark)?;
            Some(rest.split_whitespace().next()?.to_owned())
        });
        words
            .next_back()
            .with_context(|| format!("nothing that was typed showed `{mark}`"))
    }

    /// All commands that were typed and have ended well or still serve.
    ///
    /// # Errors
    /// When one that should serve has ended.
    pub fn done(&mut self) -> anyhow::Result<Vec<String>> {
        for (line, running) in &mut self.services {
            if !running.runs()? {
                bail!("`{line}` has ended\n{}", running.screen());
            }
        }
        let lines = self.services.iter().map(|(line, _)| line);
        let lines = lines.chain(self.typed.iter().map(|(line, _)| line));
        Ok(lines.cloned().collect())
    }

    /// What a command of the command line's gives as JSON to whoever is logged in.
    ///
    /// # Errors
    /// When it fails.
    pub fn asks(&self, line: &str) -> anyhow::Result<serde_json::Value> {
        let output = self
            .shell(Place::Centre, &format!("{line} --output json"))?
            .output()?;
        ensure!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (line, running) in &self.services {
                eprintln!("--- {line}\n{}", running.screen());
            }
        }
        self.services.clear();
        if let Err(error) = down(&self.id, Disks::Remove) {
            eprintln!("the lab is not wholly down: {error}; run `make clean-lab`");
        }
    }
}
