//! Password hashing with bcrypt on its own low-priority threads.
//!
//! With the default cost, a hash takes a core for about a quarter of a second, and a client without an account can cause
//! hashes. So each kind of caller, a [`HashFor`], has a share of the threads: many callers of one kind cannot take the
//! threads of the other kinds.

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

use super::password_form::{MAX_PASSWORD_BYTES, PasswordMatch, forms, normalize_password};
use crate::error::{Error, Result};

/// How long a caller waits for a permit before the caller gets an error.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(1_200);

/// Returns whether a password or its lower-case form is one of about 100,000 common passwords (OWASP ASVS 5, 6.2.4). The
/// list is part of the binary.
pub fn is_common(password: &str) -> bool {
    use passwords::analyzer::is_common_password;
    is_common_password(password) || is_common_password(password.to_lowercase())
}

/// Maximum number of callers of one share that wait at the same time. Further callers get an error immediately.
const MAX_WAITING_HASHES: usize = 256;
/// Niceness (see nice(1)) of the hashing threads, so that many logins do not slow down the requests of signed-in users.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// A hash to compute on a hashing thread.
type Work = Box<dyn FnOnce() + Send>;

/// The kind of caller that needs a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashFor {
    /// A signed-in user, a user who logs in from a network of an earlier login, the holder of a link with a valid token, or a
    /// command of the operator.
    Known,
    /// A login from any other network, or a known caller whose network has caused too many hashes.
    Login,
    /// A registration.
    Registration,
}

impl HashFor {
    /// All kinds, in the order of their definition: `caller as usize` is the index of the share of a kind.
    const ALL: [Self; 3] = [Self::Known, Self::Login, Self::Registration];
}

/// Limits the hashes of one [`HashFor`] that run and wait at the same time.
struct Share {
    /// Hashes that may run at the same time.
    size: usize,
    running: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Share {
    /// Creates a share. All shares together have more permits than the machine has cores, so the kernel divides the CPU
    /// time among the running hashes. If all permits are in use, known callers get at least half of the CPU time of the hashing
    /// threads (a third with one core).
    fn new(caller: HashFor, cores: usize) -> Self {
        let size = match caller {
            HashFor::Known => cores,
            HashFor::Login | HashFor::Registration => (cores / 2).max(1),
        };
        Self { size, running: Arc::new(Semaphore::new(size)), waiting: Arc::default() }
    }
}

/// Hashes and verifies passwords; a clone shares the threads.
#[derive(Clone)]
pub struct Passwords {
    cost: u32,
    shares: Arc<[Share; 3]>,
    work: mpsc::Sender<Work>,
}

impl Passwords {
    /// Starts the hashing threads. `cost` is the work factor of bcrypt, the base-2 logarithm of its rounds.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn new(cost: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shares = HashFor::ALL.map(|caller| Share::new(caller, cores));
        let (work, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        // There is one thread for each permit, so that a hash with a permit never waits for a thread.
        let threads: usize = shares.iter().map(|share| share.size).sum();
        for _ in 0..threads {
            let queue = queue.clone();
            // The threads end when the last sender is dropped.
            std::thread::spawn(move || run_hashing_thread(&queue));
        }
        Self { cost, shares: Arc::new(shares), work }
    }

    /// Hashes a password with the current cost, in its [normalized form](normalize_password), for a
    /// [known](HashFor::Known) caller.
    ///
    /// # Errors
    /// Those of [`Self::permit`] and [`HashPermit::hash`].
    pub async fn hash(&self, password: String) -> Result<String> {
        self.permit(HashFor::Known).await?.hash(password).await
    }

    /// Returns whether a password matches a hash, for a [known](HashFor::Known) caller.
    ///
    /// # Errors
    /// Those of [`Self::permit`] and [`HashPermit::verify`].
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        Ok(self.permit(HashFor::Known).await?.verify(password, hash).await?.is_match())
    }

    /// Returns how many hashes for this kind of caller may run at the same time.
    pub fn share_size(&self, caller: HashFor) -> usize {
        self.share(caller).size
    }

    fn share(&self, caller: HashFor) -> &Share {
        &self.shares[caller as usize]
    }

    /// Returns whether the cost of a hash is below the current cost. Returns false if the hash states no cost.
    pub fn is_outdated(&self, hash: &str) -> bool {
        cost_of(hash).is_some_and(|cost| cost < self.cost)
    }

    /// Waits for a permit of the caller's share, at most 1.2 seconds.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no permit is free in time or too many callers of the share wait.
    pub async fn permit(&self, caller: HashFor) -> Result<HashPermit> {
        let share = self.share(caller);
        let what = if caller == HashFor::Registration { "Registration" } else { "Login" };
        let slot = WaitingSlot::new(&share.waiting)
            .ok_or_else(|| Error::unavailable(what, "the queue for password hashing is full"))?;
        let permit = tokio::time::timeout(QUEUE_TIMEOUT, share.running.clone().acquire_owned())
            .await
            .map_err(|_| Error::unavailable(what, "no core was free for password hashing in time"))?
            .map_err(Error::internal)?;
        drop(slot);
        Ok(HashPermit { cost: self.cost, permit, work: self.work.clone() })
    }
}

/// A counted place in the queue of a share. Dropping it releases the place, also if the client disconnects while it waits.
struct WaitingSlot(Arc<AtomicUsize>);

impl WaitingSlot {
    /// Returns `None` if the queue is full.
    fn new(count: &Arc<AtomicUsize>) -> Option<Self> {
        let slot = Self(count.clone());
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING_HASHES).then_some(slot)
    }
}

impl Drop for WaitingSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs the queued work until the last sender is dropped.
fn run_hashing_thread(queue: &Mutex<mpsc::Receiver<Work>>) {
    // Linux only: elsewhere niceness applies to the whole process. An error is ignored; the priority then stays normal.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
    loop {
        let work = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match work {
            // A panic drops the result channel, so the caller gets an error and the thread continues.
            Ok(work) => drop(std::panic::catch_unwind(AssertUnwindSafe(work))),
            Err(mpsc::RecvError) => return,
        }
    }
}

/// Returns the cost of a bcrypt hash, such as 12 for `$2b$12$…`, or `None` if the text states no cost.
fn cost_of(hash: &str) -> Option<u32> {
    hash.split('$').nth(2)?.parse().ok()
}

/// The permission to hash or verify one password.
pub struct HashPermit {
    cost: u32,
    permit: OwnedSemaphorePermit,
    work: mpsc::Sender<Work>,
}

impl HashPermit {
    /// Hashes a password in its [normalized form](normalize_password), which must have at most [`MAX_PASSWORD_BYTES`].
    ///
    /// # Errors
    /// [`Error::Internal`] if the password is too long, or if bcrypt fails or panics.
    pub async fn hash(self, password: String) -> Result<String> {
        let password = normalize_password(&password).into_owned();
        // bcrypt would truncate the password, and `verify` would then refuse it.
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(Error::internal("the password to hash has more than 72 bytes"));
        }
        let cost = self.cost;
        self.run(move || bcrypt::hash(&password, cost).map_err(Error::internal)).await
    }

    /// Verifies a password, as it was typed and in its [normalized form](normalize_password) if that differs. Leaves out a form
    /// that is too long to match. Without a hash, the result is [`PasswordMatch::Wrong`].
    ///
    /// For a given password, all negative results take the same time, so that the time does not reveal whether an account
    /// exists (OWASP Authentication Cheat Sheet). The exception is a hash whose cost is above the current cost, as after
    /// `BCRYPT_COST` was lowered. How many forms are hashed depends on the password alone.
    ///
    /// # Errors
    /// [`Error::Internal`] if bcrypt fails to compute a hash or panics. A malformed `hash` is no error.
    pub async fn verify(self, password: String, hash: Option<String>) -> Result<PasswordMatch> {
        let is_account = hash.is_some();
        // A well-formed hash that no known password matches.
        let placeholder =
            format!("$2b${:02}${}", self.cost, "abcdefghijklmnopqrstuu1234567890ABCDEFGHIJKLMNOPQRSTS");
        let hash = hash.unwrap_or(placeholder);
        let target = self.cost;
        self.run(move || {
            let mut result = PasswordMatch::Wrong;
            for (form, success) in forms(password) {
                let can_match = is_account && form.len() <= MAX_PASSWORD_BYTES;
                let verified = bcrypt::verify(&form, &hash);
                // A malformed hash matches no password.
                if verified.is_err() {
                    bcrypt::hash(&form, target).map_err(Error::internal)?;
                    continue;
                }
                if verified.is_ok_and(|matches| matches) && can_match {
                    result = success;
                    continue;
                }
                // A hash with a cost c below the current cost t is verified faster than a new one, which
                // would reveal that the account exists. Hashing with each cost from c to t - 1 compensates:
                // 2^c + 2^c + … + 2^(t-1) = 2^t.
                for cost in cost_of(&hash).unwrap_or(target)..target {
                    bcrypt::hash(&form, cost).map_err(Error::internal)?;
                }
            }
            Ok(result)
        })
        .await
    }

    async fn run<T: Send + 'static>(self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (permit, (done, result)) = (self.permit, tokio::sync::oneshot::channel());
        // The work owns the permit. If the client disconnects, the permit stays in use until the hash is done.
        let work = Box::new(move || {
            let _permit = permit;
            // Fails if the caller no longer waits.
            let _ = done.send(work());
        });
        self.work.send(work).map_err(|_| Error::internal("all hashing threads have ended"))?;
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
    fn variants_of_common_passwords_are_detected() {
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
    async fn a_hash_with_a_lower_cost_is_outdated() {
        let hash = Passwords::new(4).hash("correct horse".into()).await.unwrap();
        assert!(Passwords::new(5).is_outdated(&hash) && !Passwords::new(4).is_outdated(&hash));
    }

    #[tokio::test]
    async fn a_password_of_72_bytes_is_hashed_whole_and_a_longer_one_never_matches() {
        let passwords = Passwords::new(4);
        let full = "x".repeat(MAX_PASSWORD_BYTES);
        let hash = passwords.hash(full.clone()).await.unwrap();
        assert!(passwords.verify(full.clone(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("x".repeat(MAX_PASSWORD_BYTES - 1), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(full.clone() + "y", Some(hash)).await.unwrap());
        for too_long in [full + "y", "\u{FB2C}".repeat(13)] {
            assert!(passwords.hash(too_long.clone()).await.is_err(), "{too_long}");
        }
    }

    #[tokio::test]
    async fn a_new_hash_matches_composed_and_decomposed_characters() {
        let passwords = Passwords::new(4);
        let (composed, decomposed) = ("Zoë's café", "Zoe\u{308}'s cafe\u{301}");
        let verify = async |password: &str, hash: &str| {
            passwords
                .permit(HashFor::Known)
                .await
                .unwrap()
                .verify(password.into(), Some(hash.into()))
                .await
                .unwrap()
        };
        for new in [composed, decomposed] {
            let hash = passwords.hash(new.into()).await.unwrap();
            assert_eq!(verify(composed, &hash).await, PasswordMatch::Normalized);
            assert_eq!(verify(decomposed, &hash).await, PasswordMatch::Normalized);
            assert_eq!(verify("Zoe's cafe", &hash).await, PasswordMatch::Wrong);
        }
        // An earlier release has hashed the text as it was typed.
        let old = bcrypt::hash(decomposed, 4).unwrap();
        assert_eq!(verify(decomposed, &old).await, PasswordMatch::AsTyped);
        assert_eq!(verify(composed, &old).await, PasswordMatch::Wrong);
    }

    #[tokio::test]
    async fn the_length_limit_applies_to_the_normalized_password() {
        let passwords = Passwords::new(4);
        let (full, typed) = ("é".repeat(36), "e\u{301}".repeat(36));
        assert_eq!((full.len(), typed.len()), (MAX_PASSWORD_BYTES, 108));
        let hash = passwords.hash(typed.clone()).await.unwrap();
        for password in [&full, &typed] {
            assert!(passwords.verify(password.clone(), Some(hash.clone())).await.unwrap(), "{password}");
            assert!(!passwords.verify(password.clone() + "é", Some(hash.clone())).await.unwrap());
        }
        assert!(
            !passwords.verify("e\u{301}".repeat(40), Some(hash)).await.unwrap(),
            "too long in both forms"
        );
    }
}
