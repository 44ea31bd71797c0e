//! Password hashing: bcrypt, on threads of its own that give way to all others, never more at once than there are cores.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// bcrypt reads no more, and cuts the rest off silently; a longer password is refused instead.
pub const MAX_PASSWORD_BYTES: usize = 72;
/// How long a hash may wait for a core before the caller is told to come back later.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(1_200);

/// Whether a password is one of the hundred thousand most common, in any case: what anybody would try first (OWASP
/// ASVS 5, 6.2.4). Works offline.
pub fn is_common(password: &str) -> bool {
    use passwords::analyzer::is_common_password;
    is_common_password(password) || is_common_password(password.to_lowercase())
}

/// Hashes that may wait; one more is refused at once.
const MAX_WAITING: usize = 256;
/// How much less of a busy machine hashing gets than answering requests does, as nice(1) has it: people who are signed in
/// do not feel a flood of logins.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub struct Passwords {
    cost: u32,
    cores: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    work: mpsc::Sender<Work>,
}

impl Passwords {
    /// `cost` is bcrypt's work factor, the base-2 logarithm of its rounds.
    pub fn new(cost: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (work, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..cores {
            let queue = queue.clone();
            // They end with the last `Passwords`.
            std::thread::spawn(move || hash_all(&queue));
        }
        Self { cost, cores: Arc::new(Semaphore::new(cores)), waiting: Arc::default(), work }
    }

    /// # Errors
    /// As [`Self::permit`].
    pub async fn hash(&self, password: String) -> Result<String> {
        self.permit().await?.hash(password).await
    }

    /// # Errors
    /// As [`Self::permit`].
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        self.permit().await?.verify(password, hash).await
    }

    /// Whether a hash was made with less work than one made now.
    pub fn is_outdated(&self, hash: &str) -> bool {
        cost_of(hash).is_some_and(|cost| cost < self.cost)
    }

    /// Waits for a core.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when too many are hashing already.
    pub async fn permit(&self) -> Result<HashPermit> {
        let place = Waiting::new(&self.waiting)
            .ok_or_else(|| Error::unavailable("Login", "too many wait to have a password hashed"))?;
        let permit = tokio::time::timeout(QUEUE_TIMEOUT, self.cores.clone().acquire_owned())
            .await
            .map_err(|_| Error::unavailable("Login", "too many passwords are being hashed"))?
            .map_err(Error::internal)?;
        drop(place);
        Ok(HashPermit { cost: self.cost, permit, work: self.work.clone() })
    }
}

/// A place in the queue; given back also by a caller who hangs up.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(count.clone());
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a thread for hashing does.
fn hash_all(queue: &Mutex<mpsc::Receiver<Work>>) {
    // If the system does not permit it, hashing competes like the rest. Elsewhere it would be for the whole process.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
    loop {
        let work = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match work {
            // Its caller hears that there is no answer; the thread goes on.
            Ok(work) => drop(std::panic::catch_unwind(AssertUnwindSafe(work))),
            Err(mpsc::RecvError) => return,
        }
    }
}

/// The work factor of a hash.
fn cost_of(hash: &str) -> Option<u32> {
    hash.split('$').nth(2)?.parse().ok()
}

/// A core to hash on.
pub struct HashPermit {
    cost: u32,
    permit: OwnedSemaphorePermit,
    work: mpsc::Sender<Work>,
}

impl HashPermit {
    pub async fn hash(self, password: String) -> Result<String> {
        let cost = self.cost;
        self.run(move || bcrypt::hash(password, cost).map_err(Error::internal)).await
    }

    /// Whether `password` is the one behind `hash`. Without a hash the answer is no and takes as long, so that
    /// the time does not tell whether an account exists (OWASP Authentication Cheat Sheet).
    pub async fn verify(self, password: String, hash: Option<String>) -> Result<bool> {
        let known = hash.is_some() && password.len() <= MAX_PASSWORD_BYTES;
        // The salt and hash of no password: nothing is known that hashes to it.
        let stand_in =
            format!("$2b${:02}${}", self.cost, "abcdefghijklmnopqrstuu1234567890ABCDEFGHIJKLMNOPQRSTS");
        let hash = hash.unwrap_or(stand_in);
        let target = self.cost;
        self.run(move || {
            // What is no hash is nobody's password.
            let matches = bcrypt::verify(&password, &hash).unwrap_or(false) && known;
            if !matches {
                // A hash of less work is checked sooner, which would tell that there is one: the steps between make
                // up for it, since 2^c and 2^c, 2^(c+1), .. 2^(t-1) add up to 2^t.
                for cost in cost_of(&hash).unwrap_or(target)..target {
                    bcrypt::hash(&password, cost).map_err(Error::internal)?;
                }
            }
            Ok(matches)
        })
        .await
    }

    async fn run<T: Send + 'static>(self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (permit, (done, result)) = (self.permit, tokio::sync::oneshot::channel());
        // The permit goes along: a caller that hangs up must not free a core that is still busy.
        let work = Box::new(move || {
            let _permit = permit;
            // Nobody waits for it any more, then.
            let _ = done.send(work());
        });
        self.work.send(work).map_err(|_| Error::internal("there is no thread to hash on"))?;
        result.await.map_err(Error::internal)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_verifies_only_its_password() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        assert!(passwords.verify("correct horse".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("correct hors".into(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("correct horse".into(), None).await.unwrap());
    }

    #[test]
    fn what_anybody_would_try_is_common() {
        let worst = [
            "password",
            "12345678",
            "iloveyou",
            "sunshine",
            "football",
            "qwertyuiop",
            "Passw0rd",
            "PASSWORD",
        ];
        for bad in worst.into_iter().chain([
            "aaaaaaaa",
            "trustno1",
            "drowssap",
            "1q2w3e4r",
            "Welcome123",
            "P@ssw0rd",
        ]) {
            assert!(is_common(bad), "{bad}");
        }
        for good in ["correct horse", "a password of ours", "changethis123", "tr0ub4dor&3x"] {
            assert!(!is_common(good), "{good}");
        }
    }

    #[tokio::test]
    async fn a_hash_of_less_work_is_outdated() {
        let hash = Passwords::new(4).hash("correct horse".into()).await.unwrap();
        assert!(Passwords::new(5).is_outdated(&hash) && !Passwords::new(4).is_outdated(&hash));
    }

    #[tokio::test]
    async fn the_72nd_byte_counts_and_a_73rd_is_refused() {
        let passwords = Passwords::new(4);
        let full = "x".repeat(MAX_PASSWORD_BYTES);
        let hash = passwords.hash(full.clone()).await.unwrap();
        assert!(passwords.verify(full.clone(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("x".repeat(MAX_PASSWORD_BYTES - 1), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(full + "y", Some(hash)).await.unwrap());
    }
}
