//! The contract that every driver is held to, written once. Public, so that a driver of another crate can be too.
//!
//! ```no_run
//! # let flags = drivers::driver::FlagValues::new();
//! drivers::testsuite::run(|context| drivers::registry::from_flags("qemu", &flags, context).unwrap());
//! ```

// A broken promise is a panic with its reason: that is what a test suite is for.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use crate::driver::{Driver, ErrorKind, Keys, MachineContext, MachineState, Silent};
use crate::registry;
use std::sync::Mutex;
use std::time::Duration;
use uuid::Uuid;

/// Longest time that the whole suite may take for one driver.
const LIMIT: Duration = Duration::from_secs(600);

/// Holds the driver that `make` gives for a new machine to the contract; panics with what it breaks.
pub fn run(make: impl Fn(MachineContext) -> Box<dyn Driver>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(LIMIT, all(make)).await.expect("a call of the driver hangs");
    });
}

async fn all(make: impl Fn(MachineContext) -> Box<dyn Driver>) {
    let place = tempfile::tempdir().unwrap();
    let machine = |name: &str| MachineContext {
        name: name.to_owned(),
        id: Uuid::new_v4(),
        dir: place.path().join(name).join("driver"),
        cache: place.path().join("cache"),
    };
    never_created(make(machine("never"))).await;
    let context = machine("contract");
    // Taken down also where a promise is broken half-way: a panic in `life` is carried on after that.
    let suite = Suite { context: context.clone() };
    let mut driver = make(context.clone());
    let outcome = futures_catch(suite.life(&mut driver)).await;
    let removed = driver.remove().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    removed.unwrap();
    assert!(!context.dir.exists(), "remove leaves {}", context.dir.display());
}

/// Runs a future and catches its panic.
async fn futures_catch(future: impl Future<Output = ()>) -> std::thread::Result<()> {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => std::task::Poll::Ready(Err(panic)),
    })
    .await
}

/// What never was can be removed, and says that it is not there where the driver knows machines of its own.
async fn never_created(mut driver: Box<dyn Driver>) {
    driver.remove().await.expect("remove of what was never created fails");
    if driver.features().start_stop {
        assert_eq!(driver.state().await.unwrap(), MachineState::Absent);
        driver.kill().await.expect("kill of what does not run fails");
        driver.stop().await.expect("stop of what does not run fails");
        let error = driver.start().await.expect_err("start of what was never created succeeds");
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    }
}

struct Suite {
    context: MachineContext,
}

impl Suite {
    async fn life(&self, driver: &mut Box<dyn Driver>) {
        driver.check(&Silent).await.expect("check");
        self.create_twice(driver).await;
        self.says_where_it_is(driver).await;
        self.survives_storage(driver).await;
        if driver.features().start_stop {
            self.power(driver).await;
        } else {
            self.no_power(driver).await;
        }
        if driver.features().forwards_ports {
            driver.set_forwards(&[]).await.expect("set_forwards to none");
        }
        driver.remove().await.expect("remove");
        driver.remove().await.expect("remove of what is removed");
        if driver.features().start_stop {
            assert_eq!(driver.state().await.unwrap(), MachineState::Absent);
        }
    }

    async fn create_twice(&self, driver: &mut Box<dyn Driver>) {
        let saved = Mutex::new(Vec::new());
        let save = |config: &toml::Table| {
            saved.lock().unwrap().push(config.clone());
            Ok(())
        };
        driver.create(&keys(), &Silent, &save).await.expect("create");
        let last = saved.lock().unwrap().last().cloned();
        assert_eq!(
            last.expect("create never saves"),
            driver.config(),
            "create ends with a configuration it has not saved"
        );
        driver.create(&keys(), &Silent, &save).await.expect("create of what exists");
        assert!(driver.state().await.is_ok());
        if driver.features().start_stop {
            assert_eq!(driver.state().await.unwrap(), MachineState::Running);
        }
    }

    async fn says_where_it_is(&self, driver: &mut Box<dyn Driver>) {
        let features = driver.features();
        let url = driver.url().expect("url");
        assert!(url.starts_with("tcp://"), "{url}");
        assert!(!driver.address().await.expect("address").is_empty());
        let ssh = driver.ssh().expect("ssh");
        assert_eq!(ssh.is_some(), features.ssh, "the ssh endpoint and the feature disagree");
        if let Some(endpoint) = ssh {
            assert!(
                endpoint.port != 0 && !endpoint.host.is_empty() && !endpoint.user.is_empty(),
                "{endpoint:?}"
            );
            assert_eq!(endpoint.host_key_delivered, features.delivers_host_key);
        }
    }

    async fn survives_storage(&self, driver: &mut Box<dyn Driver>) {
        let mut stored: toml::Table =
            driver.config().to_string().parse().expect("the configuration is no TOML");
        stored.insert("key-of-a-newer-version".into(), toml::Value::Boolean(true));
        let again = registry::open(driver.kind(), &stored, self.context.clone()).expect("open");
        assert_eq!(again.config(), stored, "open changes the configuration");
        assert_eq!(
            (again.url().unwrap(), again.ssh().unwrap()),
            (driver.url().unwrap(), driver.ssh().unwrap())
        );
        assert_eq!(again.state().await.unwrap(), driver.state().await.unwrap());
        *driver = again;
    }

    async fn power(&self, driver: &mut Box<dyn Driver>) {
        driver.start().await.expect("start of what runs");
        for (verb, state) in [
            ("stop", MachineState::Stopped),
            ("stop", MachineState::Stopped),
            ("start", MachineState::Running),
            ("start", MachineState::Running),
            ("kill", MachineState::Stopped),
            ("kill", MachineState::Stopped),
            ("create", MachineState::Running),
            ("restart", MachineState::Running),
        ] {
            let outcome = match verb {
                "stop" => driver.stop().await,
                "start" => driver.start().await,
                "kill" => driver.kill().await,
                "restart" => driver.restart().await,
                _ => driver.create(&keys(), &Silent, &|_| Ok(())).await,
            };
            outcome.unwrap_or_else(|e| panic!("{verb}: {e}: {:?}", e.source));
            assert_eq!(driver.state().await.unwrap(), state, "after {verb}");
        }
    }

    async fn no_power(&self, driver: &mut Box<dyn Driver>) {
        for outcome in
            [driver.start().await, driver.stop().await, driver.kill().await, driver.restart().await]
        {
            let error = outcome.expect_err("a driver without start_stop starts or stops");
            assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        }
    }
}

/// Keys that nobody logs in with.
fn keys() -> Keys {
    Keys {
        authorized_key: "ssh-ed25519 AAAA user".into(),
        host_private_key: "-----BEGIN OPENSSH PRIVATE KEY-----\n-----END OPENSSH PRIVATE KEY-----\n".into(),
        host_public_key: "ssh-ed25519 AAAA host".into(),
        files: Vec::new(),
    }
}
