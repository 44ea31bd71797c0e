//! Looks up the IP addresses of servers by their host names.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
};

use redis::{RedisFuture, io::AsyncDNSResolver};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Maximum number of look-ups of one name at the same time.
const MAX_LOOKUPS_PER_NAME: usize = 4;

/// Looks up host names, with a limit on the concurrent look-ups of each name; clones share the limit.
///
/// A look-up occupies a thread even after its caller has timed out, because the system call cannot be canceled. Without a
/// limit, callers that retry would occupy all threads for blocking calls while the resolver does not answer.
#[derive(Clone, Default)]
pub struct Lookups(Arc<Mutex<HashMap<String, Arc<Semaphore>>>>);

impl Lookups {
    /// Returns the addresses of a host. If four look-ups of the name are in progress, waits until one of them ends. The caller
    /// must limit the time.
    ///
    /// # Errors
    /// If the name cannot be looked up.
    pub async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let name = host.to_owned();
        self.run_blocking(host, move || -> io::Result<Vec<SocketAddr>> {
            Ok((name, port).to_socket_addrs()?.collect())
        })
        .await?
    }

    /// Runs a call that blocks its thread. If four calls for the name are in progress, waits until one of them ends.
    async fn run_blocking<T: Send + 'static>(
        &self,
        name: &str,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let permit = self.permits(name).acquire_owned().await.map_err(io::Error::other)?;
        let called = spawn_blocking(move || {
            let _permit = permit;
            call()
        });
        called.await.map_err(io::Error::other)
    }

    fn permits(&self, name: &str) -> Arc<Semaphore> {
        // Nothing panics while holding the lock.
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let permits = names.entry(name.to_owned());
        permits.or_insert_with(|| Arc::new(Semaphore::new(MAX_LOOKUPS_PER_NAME))).clone()
    }
}

impl AsyncDNSResolver for Lookups {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found = self.look_up(host, port).await?;
            Ok(Box::new(found.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    };

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn dropped_look_ups_of_a_name_occupy_at_most_four_threads() {
        let (lookups, begun) = (Lookups::default(), Arc::new(AtomicUsize::new(0)));
        let (answer, resolver) = channel::<()>();
        let resolver = Arc::new(Mutex::new(resolver));
        let look_up = || {
            let (begun, resolver) = (begun.clone(), resolver.clone());
            lookups.run_blocking("name", move || {
                begun.fetch_add(1, Ordering::SeqCst);
                // Blocks until the test drops `answer`.
                let _ = resolver.lock().unwrap().recv();
            })
        };
        for _ in 0..10 * MAX_LOOKUPS_PER_NAME {
            assert!(look_up().now_or_never().is_none());
        }
        while begun.load(Ordering::SeqCst) < MAX_LOOKUPS_PER_NAME {
            tokio::task::yield_now().await;
        }
        // A call for another name does not wait.
        lookups.run_blocking("other", || ()).await.unwrap();
        drop(answer);
        look_up().await.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), MAX_LOOKUPS_PER_NAME + 1);
    }

    #[tokio::test]
    async fn names_and_addresses_are_looked_up() {
        let lookups = Lookups::default();
        for host in ["localhost", "127.0.0.1", "::1"] {
            let found = lookups.look_up(host, 7).await.unwrap();
            assert!(!found.is_empty() && found.iter().all(|at| at.ip().is_loopback() && at.port() == 7));
        }
    }
}
