//! A WAN that delays and loses packets, in user space: the kernels we run on need not have netem. While it is there, the
//! centre's and the site's addresses lie on two VXLAN devices, whose datagrams meet in a namespace between them, where
//! threads of this process pass them on, late or not at all. Dropping it puts the plain link back.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    error::LabError,
    netns::{run, within},
    state::{CENTRE_ADDRESS, LabId, SITE_WAN_ADDRESS},
};

/// Port of VXLAN (RFC 7348).
const VXLAN: u16 = 4789;
/// The centre's end of the way below, and where its datagrams are passed on.
const CENTRE_WAY: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
/// The same of the site.
const SITE_WAY: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 5), Ipv4Addr::new(203, 0, 113, 6)];
/// How soon a thread sees that it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// What the WAN does to packets, each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impairment {
    /// How long each is on its way.
    pub delay: Duration,
    /// How many of a hundred are lost.
    pub loss_percent: u8,
    /// Which ones: the same seed loses the same.
    pub seed: u64,
}

/// What became of packets, both ways.
#[derive(Debug, Default)]
struct Counts {
    passed: AtomicU64,
    lost: AtomicU64,
}

/// An impaired WAN; the plain link is back when it is dropped.
pub struct ImpairedWan {
    id: LabId,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    counts: Arc<Counts>,
}

impl ImpairedWan {
    /// Impairs the WAN of a lab that is up. Connections over it stay.
    ///
    /// # Errors
    /// [`LabError::Command`] with what `ip` said (the kernel needs `vxlan`), [`LabError::Namespace`].
    pub fn start(id: &LabId, impairment: Impairment) -> Result<Self, LabError> {
        let mut wan = Self {
            id: id.clone(),
            stop: Arc::default(),
            threads: Vec::new(),
            counts: Arc::default(),
        };
        run("ip", &["netns", "add", &id.wan()], "")?;
        // From here on dropping it takes away what there is of it.
        for (namespace, device, way) in ends(id) {
            let between = id.wan();
            let pair = format!(
                "link add {device} netns {namespace} mtu 1600 type veth peer name {device} netns {between} mtu 1600"
            );
            run("ip", &["-batch", "-"], &pair)?;
            for (namespace, address) in [(&namespace, way[0]), (&between, way[1])] {
                let up = [
                    format!("addr add {address}/30 dev {device}"),
                    format!("link set {device} up"),
                ];
                batch(namespace, &up)?;
            }
        }
        wan.pass_on(impairment)?;
        for (namespace, device, way) in ends(id) {
            let (plain, address) = plain(device);
            let [local, remote] = way;
            let tunnel = format!(
                "link add wanx mtu 1500 type vxlan id 7 local {local} remote {remote} dstport {VXLAN} dev {device}"
            );
            batch(&namespace, &[tunnel])?;
            // Nobody on this way completes a checksum or cuts a large segment up.
            let whole = [
                "netns", "exec", &namespace, "ethtool", "-K", "wanx", "tx", "off", "gso", "off", "gro", "off",
            ];
            run("ip", &whole, "")?;
            let moved = [
                "link set wanx up".to_owned(),
                format!("addr del {address}/30 dev {plain}"),
                format!("addr add {address}/30 dev wanx"),
            ];
            batch(&namespace, &moved)?;
        }
        Ok(wan)
    }

    fn pass_on(&mut self, impairment: Impairment) -> Result<(), LabError> {
        let bind = |address: Ipv4Addr| -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind((address, VXLAN))?;
            socket.set_read_timeout(Some(LOOK))?;
            Ok(socket)
        };
        let sockets = within(&self.id.wan(), || Ok((bind(CENTRE_WAY[1])?, bind(SITE_WAY[1])?)))?;
        let failed = |source: std::io::Error| LabError::Namespace {
            namespace: self.id.wan(),
            source,
        };
        let (centre, site) = sockets.map_err(failed)?;
        for (number, from, to, address) in [
            (0, &centre, &site, SITE_WAY[0]),
            (1, &site, &centre, CENTRE_WAY[0]),
        ] {
            let way = OneWay {
                from: from.try_clone().map_err(failed)?,
                to: to.try_clone().map_err(failed)?,
                address: SocketAddr::from((address, VXLAN)),
                impairment: Impairment {
                    seed: impairment.seed ^ number,
                    ..impairment
                },
                stop: Arc::clone(&self.stop),
                counts: Arc::clone(&self.counts),
            };
            self.threads.extend(way.start());
        }
        Ok(())
    }

    /// How many packets were passed on, and how many were lost.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.counts.passed), count(&self.counts.lost))
    }
}

impl Drop for ImpairedWan {
    fn drop(&mut self) {
        for (namespace, device, _) in ends(&self.id) {
            let (plain, address) = plain(device);
            // Each by itself: what was not made yet is not there, and a lab that is down has nothing any more.
            for line in [
                "link del wanx".to_owned(),
                format!("addr add {address}/30 dev {plain}"),
                format!("link del {device}"),
            ] {
                batch(&namespace, &[line]).ok();
            }
        }
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
        run("ip", &["netns", "del", &self.id.wan()], "").ok();
    }
}

/// Namespace, device of the way below, and its two addresses, of each end.
fn ends(id: &LabId) -> [(String, &'static str, [Ipv4Addr; 2]); 2] {
    [(id.centre(), "wayc", CENTRE_WAY), (id.site(), "ways", SITE_WAY)]
}

/// The plain link's device and address where `device` is the way below.
fn plain(device: &str) -> (&'static str, Ipv4Addr) {
    match device {
        "wayc" => ("wanc", CENTRE_ADDRESS),
        _ => ("wans", SITE_WAN_ADDRESS),
    }
}

fn batch(namespace: &str, lines: &[String]) -> Result<(), LabError> {
    run("ip", &["-n", namespace, "-batch", "-"], &lines.join("\n"))
}

/// One direction.
struct OneWay {
    from: UdpSocket,
    to: UdpSocket,
    address: SocketAddr,
    impairment: Impairment,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl OneWay {
    /// A thread that takes packets, and one that passes them on when their time has come: in their order, as each takes as
    /// long as the others.
    fn start(self) -> [JoinHandle<()>; 2] {
        let (queue, queued) = mpsc::sync_channel::<(Instant, Vec<u8>)>(4096);
        let (to, address) = (self.to, self.address);
        let passes = std::thread::spawn(move || {
            for (due, packet) in queued {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                // A packet that cannot be sent is a lost one.
                to.send_to(&packet, address).ok();
            }
        });
        let (from, stop, counts, impairment) = (self.from, self.stop, self.counts, self.impairment);
        let takes = std::thread::spawn(move || {
            let (mut buffer, mut dice) = (vec![0; 2048], Dice(impairment.seed));
            while !stop.load(Ordering::Relaxed) {
                let Ok(length) = from.recv(&mut buffer) else {
                    continue;
                };
                let lost = dice.percent() < u64::from(impairment.loss_percent);
                let packet = (Instant::now() + impairment.delay, buffer[..length].to_vec());
                // A full queue loses, as a router does.
                let kept = !lost && queue.try_send(packet).is_ok();
                let counter = if kept { &counts.passed } else { &counts.lost };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        [takes, passes]
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): good enough to lose packets by.
struct Dice(u64);

impl Dice {
    fn percent(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_loses_the_same_and_about_as_many_as_were_asked_for() {
        let lost = |seed| {
            let mut dice = Dice(seed);
            (0..10_000).filter(|_| dice.percent() < 30).count()
        };
        assert_eq!(lost(7), lost(7));
        assert!((2_800..3_200).contains(&lost(7)), "{}", lost(7));
    }
}
