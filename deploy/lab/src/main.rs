//! `slipway-lab`: the command line of the virtual lab. Parses, calls [`slipway_lab::commands`], prints.

use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use slipway_edge::bmc::{BootDevice, PowerAction};
use slipway_lab::commands::bmc_serve::{FaultOrder, SelEvent, bmc_serve};
use slipway_lab::commands::console::{Follow, console};
use slipway_lab::commands::down::{Disks, down};
use slipway_lab::commands::exec::{Place, exec};
use slipway_lab::commands::up::{Spec, up};
use slipway_lab::commands::{disk_hash::disk_hash, expose::expose, fault::fault, power, status::status};
use slipway_lab::impaired_wan::{ImpairedWan, Impairment};
use slipway_lab::state::{Bus, LabId, MachineFirmware, Nic};
use slipway_lab::wan;

/// A site in a network namespace, with QEMU machines and BMCs that really switch them. Needs root.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Folder that holds all labs.
    #[arg(
        long,
        global = true,
        env = "SLIPWAY_LAB_DIR",
        default_value = "/var/tmp/slipway-lab"
    )]
    dir: PathBuf,
    /// Name of the lab; several may be up at once.
    #[arg(long, global = true, env = "SLIPWAY_LAB_NAME", default_value = "lab")]
    name: String,
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Make a lab; all machines are off.
    Up(UpArgs),
    /// Take a lab away.
    Down {
        /// Leave the disks for the next `up`.
        #[arg(long)]
        keep_disks: bool,
    },
    /// Show namespaces, credentials and machines.
    Status {
        /// How to print it.
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Print what a machine wrote to its serial console.
    Console {
        /// The machine.
        machine: String,
        /// Keep printing.
        #[arg(long, short)]
        follow: bool,
    },
    /// Switch a machine, by IPMI.
    Power {
        /// The machine.
        machine: String,
        /// What to do.
        action: Power,
    },
    /// Set what a machine boots from next, once, by IPMI.
    Boot {
        /// The machine.
        machine: String,
        /// The device.
        device: Device,
    },
    /// Cut the link between site and centre (a silent black hole), heal it, or impair it until Ctrl-C.
    Wan {
        /// What to do.
        action: Wan,
        /// With `impair`: how long a packet takes, each way, in ms.
        #[arg(long, default_value_t = 300)]
        delay: u64,
        /// With `impair`: how many of a hundred packets are lost, each way.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u8).range(0..=100))]
        loss: u8,
    },
    /// Run a command in a namespace of the lab.
    Exec {
        /// Which namespace.
        place: Place,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Make a TCP port inside the lab reachable from here.
    Expose {
        /// Where to listen, e.g. 127.0.0.1:8080.
        listen: SocketAddr,
        /// In which namespace the target is.
        place: Place,
        /// Where to connect inside, e.g. 198.51.100.1:8080.
        target: SocketAddr,
    },
    /// SHA-256 of a machine's disk.
    DiskHash {
        /// The machine.
        machine: String,
        /// Number of the disk, from 1.
        disk: usize,
    },
    /// Make a machine's BMC misbehave, or log that something is wrong with its machine.
    Fault {
        /// The machine.
        machine: String,
        /// Lose so many packets.
        #[arg(long)]
        drop: Option<u32>,
        /// Answer so many commands with "busy".
        #[arg(long)]
        busy: Option<u32>,
        /// Log an event: sensor type, sensor, event type, data 1 to 3 in hex, e.g. 08526f03ffff (a power supply's input is
        /// lost), 0c106f31ff05 (uncorrectable ECC error), 04410152ffff (a fan stands still); event type + 80 is its end.
        #[arg(long)]
        event: Option<SelEvent>,
        /// Empty the event log first.
        #[arg(long)]
        clear_log: bool,
    },
    /// Serve all BMCs (started by `up`).
    #[command(hide = true)]
    BmcServe,
}

#[derive(Debug, Args)]
struct UpArgs {
    /// How many machines.
    #[arg(long, default_value_t = 1)]
    machines: u8,
    /// Firmware; several, separated by commas, are given out in turn.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bios")]
    firmware: Vec<MachineFirmware>,
    /// Disks of each machine.
    #[arg(long, default_value_t = 1)]
    disks: u8,
    /// Size of each disk in GiB.
    #[arg(long, default_value_t = 4)]
    disk_gb: u32,
    /// Memory of each machine in MiB.
    #[arg(long, default_value_t = 512)]
    memory_mb: u32,
    /// Network card.
    #[arg(long, value_enum, default_value = "virtio")]
    nic: Nic,
    /// How disks are attached.
    #[arg(long, value_enum, default_value = "virtio")]
    bus: Bus,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Power {
    On,
    Off,
    Cycle,
    Reset,
    Soft,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Device {
    Pxe,
    Disk,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wan {
    Cut,
    Heal,
    Impair,
}

/// Impairs the WAN until Ctrl-C.
fn impair(id: &LabId, delay_ms: u64, loss_percent: u8) -> anyhow::Result<()> {
    let impairment = Impairment {
        delay: std::time::Duration::from_millis(delay_ms),
        loss_percent,
        seed: u64::from(std::process::id()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wan = ImpairedWan::start(id, impairment)?;
    println!("{delay_ms} ms and {loss_percent} % lost each way, until Ctrl-C");
    runtime.block_on(tokio::signal::ctrl_c())?;
    let (passed, lost) = wan.counts();
    println!("{passed} packets passed on, {lost} lost");
    Ok(())
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let cli = Cli::parse();
    let done = LabId::new(cli.dir, &cli.name)
        .map_err(Into::into)
        .and_then(|id| run(&id, cli.command));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slipway-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(id: &LabId, command: Sub) -> anyhow::Result<()> {
    match command {
        Sub::Up(args) => {
            up(id, &args.into())?;
            print!("{}", status(id)?.text());
        }
        Sub::Down { keep_disks } => take_down(id, if keep_disks { Disks::Keep } else { Disks::Remove })?,
        Sub::Status { output: Output::Text } => print!("{}", status(id)?.text()),
        Sub::Status { output: Output::Json } => {
            println!("{}", serde_json::to_string_pretty(&status(id)?)?);
        }
        Sub::Console { machine, follow } => {
            let follow = if follow { Follow::Yes } else { Follow::No };
            console(id, &machine, follow, &mut std::io::stdout())?;
        }
        Sub::Power { machine, action } => power::power(id, &machine, action.into())?,
        Sub::Boot { machine, device } => power::boot(id, &machine, device.into())?,
        Sub::Wan { action: Wan::Cut, .. } => wan::cut(id)?,
        Sub::Wan {
            action: Wan::Heal, ..
        } => wan::heal(id)?,
        Sub::Wan {
            action: Wan::Impair,
            delay,
            loss,
        } => impair(id, delay, loss)?,
        Sub::Exec { place, command } => {
            let (program, arguments) = command.split_first().context("no command given")?;
            return Err(exec(id, place, program, arguments).into());
        }
        Sub::Expose {
            listen,
            place,
            target,
        } => {
            let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
            expose(id, &listener, place, target)?;
        }
        Sub::DiskHash { machine, disk } => println!("{}", disk_hash(id, &machine, disk)?),
        Sub::Fault {
            machine,
            drop,
            busy,
            event,
            clear_log,
        } => {
            let order = FaultOrder {
                machine,
                drop,
                busy,
                event,
                clear_log,
            };
            fault(id, &order)?;
        }
        Sub::BmcServe => bmc_serve(id)?,
    }
    Ok(())
}

fn take_down(id: &LabId, disks: Disks) -> anyhow::Result<()> {
    let strangers = down(id, disks)?;
    if !strangers.is_empty() {
        eprintln!("processes still in the lab's former namespaces, started by others: {strangers:?}");
    }
    Ok(())
}

impl From<UpArgs> for Spec {
    fn from(args: UpArgs) -> Self {
        let UpArgs {
            machines,
            firmware,
            disks,
            disk_gb,
            memory_mb,
            nic,
            bus,
        } = args;
        Self {
            machines,
            firmware,
            disks,
            disk_gb,
            memory_mb,
            nic,
            bus,
            program: None,
        }
    }
}

impl From<Power> for PowerAction {
    fn from(action: Power) -> Self {
        match action {
            Power::On => Self::On,
            Power::Off => Self::Off,
            Power::Cycle => Self::Cycle,
            Power::Reset => Self::Reset,
            Power::Soft => Self::Soft,
        }
    }
}

impl From<Device> for BootDevice {
    fn from(device: Device) -> Self {
        match device {
            Device::Pxe => Self::Pxe,
            Device::Disk => Self::Disk,
        }
    }
}
