//! Who is connected: what each client is doing, and the way to stop it.
//!
//! Invariant: a connection is in the list from its startup packet to its end, whatever ends it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::watch;

use crate::coordinator::reply::Underway;

/// Bytes of a statement's text that are kept for others to see.
const QUERY_BYTES_MAX: usize = 1_024;

/// What others ask of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Signals {
    /// Cancel requests so far.
    pub cancels: u64,
    /// The connection has to end.
    pub terminate: bool,
}

/// What a client is doing.
#[derive(Clone, Debug)]
pub struct Activity {
    /// User name.
    pub user: String,
    /// `application_name`.
    pub application: String,
    /// Its address and port.
    pub client: Option<std::net::SocketAddr>,
    /// `active`, `idle`, `idle in transaction`, `idle in transaction (aborted)`.
    pub state: &'static str,
    /// Current or last statement.
    pub query: String,
    /// When the connection was made.
    pub started: SystemTime,
    /// When that statement began.
    pub query_started: Option<SystemTime>,
    /// When the state began.
    pub state_since: SystemTime,
}

/// One connection.
pub struct Backend {
    /// Its number.
    pub pid: i32,
    /// What a CancelRequest must bring.
    pub secret: i32,
    /// The change that its session waits for.
    pub underway: Arc<Underway>,
    signals: watch::Sender<Signals>,
    activity: Mutex<Activity>,
    all: Arc<Backends>,
}

impl Backend {
    /// Requests to it.
    pub fn signals(&self) -> watch::Receiver<Signals> {
        self.signals.subscribe()
    }

    /// Who the client is.
    pub fn greeted(&self, user: &str, client: Option<std::net::SocketAddr>) {
        let mut activity = self.activity.lock();
        activity.user = user.into();
        activity.client = client;
    }

    /// A new `application_name`.
    pub fn renamed(&self, application: &str) {
        self.activity.lock().application = application.into();
    }

    /// A statement begins.
    pub fn runs(&self, sql: &str) {
        let end = (0..=QUERY_BYTES_MAX.min(sql.len()))
            .rfind(|at| sql.is_char_boundary(*at))
            .unwrap_or(0);
        let now = SystemTime::now();
        let mut activity = self.activity.lock();
        activity.query.clear();
        activity.query.push_str(&sql[..end]);
        activity.state = "active";
        activity.query_started = Some(now);
        activity.state_since = now;
    }

    /// It waits for the client.
    pub fn waits(&self, state: &'static str) {
        let mut activity = self.activity.lock();
        if activity.state != state {
            activity.state = state;
            activity.state_since = SystemTime::now();
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.all.running.lock().remove(&self.pid);
    }
}

/// A connection as its list has it: alive as long as its task.
type Listed = std::sync::Weak<Backend>;

/// All connections.
#[derive(Default)]
pub struct Backends {
    next: Mutex<i32>,
    running: Mutex<BTreeMap<i32, Listed>>,
}

impl Backends {
    /// A new connection; it leaves the list when it is dropped.
    pub fn register(self: &Arc<Self>) -> Arc<Backend> {
        let mut running = self.running.lock();
        let mut next = self.next.lock();
        loop {
            *next = next.checked_add(1).unwrap_or(1);
            if !running.contains_key(&next) {
                break;
            }
        }
        let now = SystemTime::now();
        let backend = Arc::new(Backend {
            pid: *next,
            secret: rand::rng().random(),
            underway: Arc::default(),
            signals: watch::Sender::new(Signals::default()),
            activity: Mutex::new(Activity {
                user: String::new(),
                application: String::new(),
                client: None,
                state: "idle",
                query: String::new(),
                started: now,
                query_started: None,
                state_since: now,
            }),
            all: Arc::clone(self),
        });
        running.insert(*next, Arc::downgrade(&backend));
        backend
    }

    fn find(&self, pid: i32) -> Option<Arc<Backend>> {
        self.running.lock().get(&pid)?.upgrade()
    }

    /// A CancelRequest; one with a wrong secret does nothing.
    pub fn cancel_request(&self, pid: i32, secret: i32) {
        if self.find(pid).is_some_and(|b| b.secret == secret) {
            self.signal(pid, false);
        }
    }

    /// Cancels what a connection is doing, or ends it. False if there is none of that number.
    pub fn signal(&self, pid: i32, terminate: bool) -> bool {
        let Some(backend) = self.find(pid) else {
            return false;
        };
        backend.signals.send_modify(|signals| match terminate {
            true => signals.terminate = true,
            false => signals.cancels += 1,
        });
        true
    }

    /// All connections with their numbers.
    pub fn list(&self) -> Vec<(i32, Activity)> {
        // Upgraded first: the last reference to a backend must not be dropped under the lock.
        let running: Vec<Arc<Backend>> = {
            let running = self.running.lock();
            running.values().filter_map(Listed::upgrade).collect()
        };
        running
            .iter()
            .map(|backend| (backend.pid, backend.activity.lock().clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_secret_cancels_nothing() {
        let all = Arc::new(Backends::default());
        let backend = all.register();
        let signals = backend.signals();
        all.cancel_request(backend.pid, backend.secret.wrapping_add(1));
        assert!(!signals.has_changed().expect("the backend lives"));
        all.cancel_request(backend.pid, backend.secret);
        assert!(signals.has_changed().expect("the backend lives"));
    }

    #[test]
    fn the_list_has_who_is_connected() {
        let all = Arc::new(Backends::default());
        let (a, b) = (all.register(), all.register());
        a.runs(&"é".repeat(600));
        b.waits("idle in transaction");
        let shown: Vec<_> = all
            .list()
            .into_iter()
            .map(|(pid, activity)| (pid, activity.state, activity.query.len()))
            .collect();
        assert_eq!(shown, [(1, "active", 1_024), (2, "idle in transaction", 0)]);
        drop(a);
        assert_eq!(all.list().len(), 1);
        assert!(!all.signal(1, false) && all.signal(2, true));
        assert!(b.signals().borrow().terminate);
    }
}
