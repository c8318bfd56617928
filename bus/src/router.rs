//! The router: which connected client hears what is published. It keeps nothing: no retained message, no session, no queue of who
//! is away. What a client has not read yet waits in a queue that is bounded in bytes and messages; a client whose queue is full
//! is put out, so that nobody waits for it. It does no I/O; sessions take from the queues and write.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What waits for one client at most, in bytes of topics and payloads: two of the largest packets.
pub const MAX_QUEUE_BYTES: usize = 2 * crate::MAX_PACKET_BYTES;
/// What waits for one client at most, in messages.
pub const MAX_QUEUE_MESSAGES: usize = 16 * 1024;
/// What the program that runs the broker may leave unread: all sites may speak at once, and it reads what it can.
pub const OWN_QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// The same, in messages.
pub const OWN_QUEUE_MESSAGES: usize = 128 * 1024;

/// Quality of service: at most once, or at least once (MQTT 3.1.1, 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce,
}

/// A message on its way to one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: Bytes,
    /// Its payload, shared by all who hear it.
    pub payload: Bytes,
    /// The lower of what was published and what was subscribed.
    pub delivery: Delivery,
}

impl Message {
    fn len(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// How much a client may leave unread, and what becomes of more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// A client's: it is put out.
    Client,
    /// The own program's: the newest is dropped and counted.
    Own,
}

impl Room {
    fn limits(self) -> (usize, usize) {
        match self {
            Self::Client => (MAX_QUEUE_BYTES, MAX_QUEUE_MESSAGES),
            Self::Own => (OWN_QUEUE_BYTES, OWN_QUEUE_MESSAGES),
        }
    }
}

/// Why a session is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOut {
    /// Another connection took its client id over (MQTT 3.1.1, 3.1.4-2).
    TakenOver,
    /// It does not read what is sent to it.
    Slow,
}

/// What waits for one client.
#[derive(Debug)]
struct Queue {
    waiting: Mutex<(VecDeque<Message>, usize)>,
    ready: Notify,
    room: Room,
    put_out: Mutex<Option<PutOut>>,
    leave: CancellationToken,
}

impl Queue {
    /// Adds a message; `false` if there is no room for it.
    fn push(&self, message: Message) -> bool {
        let (max_bytes, max_messages) = self.room.limits();
        let mut waiting = lock(&self.waiting);
        let (messages, bytes) = &mut *waiting;
        if messages.len() >= max_messages || bytes.saturating_add(message.len()) > max_bytes {
            return false;
        }
        *bytes += message.len();
        messages.push_back(message);
        drop(waiting);
        self.ready.notify_one();
        true
    }

    fn end(&self, why: PutOut) {
        lock(&self.put_out).get_or_insert(why);
        self.leave.cancel();
    }
}

/// Who hears what, by levels of filters.
#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    here: Vec<(u64, Delivery)>,
    rest: Vec<(u64, Delivery)>,
}

impl Node {
    fn add(&mut self, mut levels: std::str::Split<'_, char>, who: (u64, Delivery)) {
        match levels.next() {
            None => replace(&mut self.here, who),
            Some("#") => replace(&mut self.rest, who),
            Some("+") => self.any.get_or_insert_default().add(levels, who),
            Some(level) => {
                let child = self.children.entry(level.into()).or_default();
                child.add(levels, who);
            }
        }
    }

    /// Takes a filter of a client out; gives back whether nothing is left below this node.
    fn remove(&mut self, mut levels: std::str::Split<'_, char>, client: u64) -> bool {
        match levels.next() {
            None => self.here.retain(|(who, _)| *who != client),
            Some("#") => self.rest.retain(|(who, _)| *who != client),
            Some("+") => {
                if self.any.as_mut().is_some_and(|any| any.remove(levels, client)) {
                    self.any = None;
                }
            }
            Some(level) => {
                let child = self.children.get_mut(level);
                if child.is_some_and(|child| child.remove(levels, client)) {
                    self.children.remove(level);
                }
            }
        }
        self.children.is_empty() && self.any.is_none() && self.here.is_empty() && self.rest.is_empty()
    }

    /// Who hears a topic. `#` hears its own parent level, too (MQTT 3.1.1, 4.7.1-2).
    fn find(&self, mut levels: std::str::Split<'_, char>, found: &mut HashMap<u64, Delivery>) {
        hear(&self.rest, found);
        let Some(level) = levels.next() else {
            hear(&self.here, found);
            return;
        };
        if let Some(child) = self.children.get(level) {
            child.find(levels.clone(), found);
        }
        if let Some(any) = &self.any {
            any.find(levels, found);
        }
    }
}

fn replace(list: &mut Vec<(u64, Delivery)>, who: (u64, Delivery)) {
    list.retain(|(client, _)| *client != who.0);
    list.push(who);
}

fn hear(list: &[(u64, Delivery)], found: &mut HashMap<u64, Delivery>) {
    for (client, delivery) in list {
        let held = found.entry(*client).or_insert(*delivery);
        *held = (*held).max(*delivery);
    }
}

#[derive(Debug, Default)]
struct Inner {
    clients: HashMap<u64, Arc<Queue>>,
    by_name: HashMap<String, u64>,
    tree: Node,
    next: u64,
}

/// The router; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Router {
    inner: Arc<Mutex<Inner>>,
    dropped: Arc<AtomicU64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Router {
    /// A client comes in; one of the same name is put out.
    #[must_use]
    pub fn enter(&self, name: &str, room: Room) -> Seat {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            ready: Notify::new(),
            room,
            put_out: Mutex::default(),
            leave: CancellationToken::new(),
        });
        let mut inner = lock(&self.inner);
        inner.next += 1;
        let key = inner.next;
        let former = inner.by_name.insert(name.to_owned(), key);
        let former = former.and_then(|former| inner.clients.get(&former).cloned());
        inner.clients.insert(key, Arc::clone(&queue));
        drop(inner);
        if let Some(former) = former {
            former.end(PutOut::TakenOver);
        }
        Seat {
            router: self.clone(),
            key,
            name: name.to_owned(),
            queue,
            filters: Mutex::default(),
        }
    }

    /// Passes a message on to all who hear its topic, once each. Clients that have no room for it are put out.
    pub fn publish(&self, topic: &str, payload: Bytes, delivery: Delivery) {
        let inner = lock(&self.inner);
        let mut found = HashMap::new();
        inner.tree.find(topic.split('/'), &mut found);
        let hearers: Vec<(Arc<Queue>, Delivery)> = found
            .into_iter()
            .filter_map(|(client, subscribed)| {
                Some((Arc::clone(inner.clients.get(&client)?), subscribed.min(delivery)))
            })
            .collect();
        drop(inner);
        if hearers.is_empty() {
            return;
        }
        let topic = Bytes::copy_from_slice(topic.as_bytes());
        for (queue, delivery) in hearers {
            let message = Message {
                topic: topic.clone(),
                payload: payload.clone(),
                delivery,
            };
            if !queue.push(message) {
                match queue.room {
                    Room::Client => queue.end(PutOut::Slow),
                    Room::Own => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
                }
            }
        }
    }

    /// How many messages the own program had no room for.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many clients are in.
    #[must_use]
    pub fn clients(&self) -> usize {
        lock(&self.inner).clients.len()
    }

    /// Puts everybody out, as a restart of a broker does.
    pub fn clear(&self) {
        let clients: Vec<Arc<Queue>> = lock(&self.inner).clients.values().cloned().collect();
        clients.iter().for_each(|queue| queue.end(PutOut::TakenOver));
    }
}

/// A client that is in; leaves when dropped.
#[derive(Debug)]
pub struct Seat {
    router: Router,
    key: u64,
    name: String,
    queue: Arc<Queue>,
    filters: Mutex<Vec<String>>,
}

impl Seat {
    /// The next message. Cancel-safe.
    pub async fn next(&self) -> Message {
        loop {
            let ready = self.queue.ready.notified();
            {
                let mut waiting = lock(&self.queue.waiting);
                let (messages, bytes) = &mut *waiting;
                if let Some(message) = messages.pop_front() {
                    *bytes -= message.len();
                    return message;
                }
            }
            ready.await;
        }
    }

    /// Waits until this client is put out.
    pub async fn put_out(&self) -> PutOut {
        self.queue.leave.cancelled().await;
        lock(&self.queue.put_out).unwrap_or(PutOut::TakenOver)
    }

    /// Hears a filter from now on; `false` if it hears `most` others already. The caller has checked the filter's form.
    pub fn subscribe(&self, filter: &str, delivery: Delivery, most: usize) -> bool {
        let mut filters = lock(&self.filters);
        if !filters.iter().any(|held| held == filter) {
            if filters.len() >= most {
                return false;
            }
            filters.push(filter.to_owned());
        }
        let mut inner = lock(&self.router.inner);
        inner.tree.add(filter.split('/'), (self.key, delivery));
        true
    }

    /// Hears a filter no more.
    pub fn unsubscribe(&self, filter: &str) {
        let mut filters = lock(&self.filters);
        let held = filters.len();
        filters.retain(|held| held != filter);
        if filters.len() < held {
            let mut inner = lock(&self.router.inner);
            inner.tree.remove(filter.split('/'), self.key);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = lock(&self.router.inner);
        for filter in lock(&self.filters).iter() {
            inner.tree.remove(filter.split('/'), self.key);
        }
        inner.clients.remove(&self.key);
        if inner.by_name.get(&self.name) == Some(&self.key) {
            inner.by_name.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(router: &Router, topic: &str, payload: &str) {
        router.publish(
            topic,
            Bytes::copy_from_slice(payload.as_bytes()),
            Delivery::AtLeastOnce,
        );
    }

    async fn heard(seat: &Seat) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(message) = tokio::time::timeout(std::time::Duration::ZERO, seat.next()).await {
            all.push(String::from_utf8(message.payload.to_vec()).unwrap());
        }
        all
    }

    #[tokio::test]
    async fn filters_match_as_mqtt_says() {
        for (filter, topic, hears) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/a", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "b/a", false),
            ("#", "a/b", true),
            ("+/b/#", "a/b/c", true),
            ("a//b", "a//b", true),
        ] {
            let router = Router::default();
            let seat = router.enter("x", Room::Client);
            seat.subscribe(filter, Delivery::AtMostOnce, 9);
            say(&router, topic, "m");
            assert_eq!(!heard(&seat).await.is_empty(), hears, "{filter} {topic}");
        }
    }

    #[tokio::test]
    async fn each_hears_a_message_once_and_nothing_after_it_left() {
        let router = Router::default();
        let one = router.enter("one", Room::Client);
        for filter in ["a/#", "a/+", "a/b", "#"] {
            one.subscribe(filter, Delivery::AtLeastOnce, 9);
        }
        let two = router.enter("two", Room::Client);
        two.subscribe("a/b", Delivery::AtMostOnce, 9);
        say(&router, "a/b", "1");
        assert_eq!(heard(&one).await, ["1"]);
        assert_eq!(heard(&two).await, ["1"]);
        two.unsubscribe("a/b");
        for filter in ["a/#", "a/+", "a/b"] {
            one.unsubscribe(filter);
        }
        say(&router, "a/b", "2");
        assert_eq!(
            (heard(&one).await, heard(&two).await),
            (vec!["2".to_owned()], vec![])
        );
        drop((one, two));
        assert_eq!(router.clients(), 0);
        let inner = lock(&router.inner);
        assert!(inner.by_name.is_empty() && inner.tree.children.is_empty() && inner.tree.rest.is_empty());
    }

    #[tokio::test]
    async fn who_takes_a_name_over_puts_the_former_out_and_keeps_it() {
        let router = Router::default();
        let former = router.enter("x", Room::Client);
        let newer = router.enter("x", Room::Client);
        assert_eq!(former.put_out().await, PutOut::TakenOver);
        newer.subscribe("a", Delivery::AtMostOnce, 9);
        drop(former);
        say(&router, "a", "m");
        assert_eq!(heard(&newer).await, ["m"]);
        let newest = router.enter("x", Room::Client);
        assert_eq!(newer.put_out().await, PutOut::TakenOver);
        drop(newest);
    }

    #[tokio::test]
    async fn a_full_queue_puts_its_reader_out_and_costs_nobody_else() {
        let router = Router::default();
        let slow = router.enter("slow", Room::Client);
        let own = router.enter("own", Room::Own);
        slow.subscribe("a", Delivery::AtMostOnce, 9);
        own.subscribe("a", Delivery::AtMostOnce, 9);
        let payload = Bytes::from(vec![7; 1024 * 1024]);
        let messages = OWN_QUEUE_BYTES / payload.len() + 5;
        for _ in 0..messages {
            router.publish("a", payload.clone(), Delivery::AtMostOnce);
        }
        assert_eq!(slow.put_out().await, PutOut::Slow);
        let held = lock(&slow.queue.waiting).1;
        assert!(held <= MAX_QUEUE_BYTES, "{held}");
        assert!(
            !own.queue.leave.is_cancelled(),
            "the own program is never put out"
        );
        assert!(router.dropped() >= 5);
        let small = router.enter("small", Room::Client);
        for _ in 0..MAX_QUEUE_MESSAGES + 5 {
            router.publish("nobody", Bytes::new(), Delivery::AtMostOnce);
        }
        assert!(!small.queue.leave.is_cancelled());
    }
}
