//! Scripts that drive a browser (`control-plane/web/e2e`). A script that needs something of the world outside its browser
//! says `wish: WORD REST` on a line and waits for a line; all else it says is for people.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, ensure};

/// A running script; it is killed when this is dropped.
pub struct Script {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
    said: String,
}

/// Where screenshots are kept after a run: beside the binaries.
fn shots() -> anyhow::Result<PathBuf> {
    let binaries =
        std::env::var_os("SLIPWAY_BINARIES").context("SLIPWAY_BINARIES is not set: use `make test`")?;
    let folder = Path::new(&binaries).with_file_name("screenshots");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

impl Script {
    /// Starts a script on the control plane at `url`.
    ///
    /// # Errors
    /// When the UI was not built or Node is not there.
    pub fn start(name: &str, url: &str, environment: &[(&str, String)]) -> anyhow::Result<Self> {
        let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-plane/web");
        ensure!(
            web.join("dist/index.html").exists(),
            "the web UI is not built: run `make web`"
        );
        let node = std::env::var("SLIPWAY_NODE").unwrap_or_else(|_| "node".to_owned());
        let mut child = Command::new(node)
            .arg(web.join("e2e").join(name))
            .env("SLIPWAY_URL", url)
            .env("SLIPWAY_SHOTS", shots()?)
            .envs(environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("node cannot be started")?;
        let says = BufReader::new(child.stdout.take().context("no standard output")?);
        let hears = child.stdin.take().context("no standard input")?;
        Ok(Self {
            child,
            says,
            hears,
            said: String::new(),
        })
    }

    /// What the script wishes for next, as its word and what goes with it; `None` once it has ended.
    ///
    /// # Errors
    /// When it cannot be heard.
    pub fn next_wish(&mut self) -> anyhow::Result<Option<(String, String)>> {
        loop {
            let mut line = String::new();
            if self.says.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            if let Some(wish) = line.trim_end().strip_prefix("wish: ") {
                let (word, rest) = wish.split_once(' ').unwrap_or((wish, ""));
                return Ok(Some((word.to_owned(), rest.to_owned())));
            }
            print!("{line}");
            self.said.push_str(&line);
        }
    }

    /// Tells the script that its wish is granted.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub fn grant(&mut self) -> anyhow::Result<()> {
        writeln!(self.hears, "granted").context("the script is gone")
    }

    /// Holds that the script ended well.
    ///
    /// # Panics
    /// When it did not, with what it said and `more`.
    pub fn succeeded(&mut self, more: &str) {
        let status = self
            .child
            .wait()
            .expect("a child that was started can be waited for");
        assert!(status.success(), "{status}\n{}\n{more}", self.said);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
