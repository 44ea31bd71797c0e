//! `scripts/deploy`, with a fake docker that stores the containers and their images in files.

use std::{fs, path::Path, process::Command};

use crate::support::process::{Ended, TempDir, run};

/// A directory with the script and the fake docker.
struct Host(TempDir);

impl Host {
    /// Creates a host that runs an image: `scripts/deploy` starts the services.
    async fn with_image(image: &str) -> Self {
        let host = Self(TempDir::new());
        // A shell writes the programs, because a child of this process could inherit an open file. See the test of
        // `scripts/migrate` in `cli_migrate`.
        let set_up = "mkdir -p scripts bin fake/images; cp \"$ROOT/scripts/deploy\" scripts/
            cp \"$ROOT/tests/it/support/fake_docker.sh\" bin/docker; printf '#!/bin/sh\\n' >bin/sleep; chmod +x bin/*
            printf 'postgres\\nredis\\nmigrate\\nworker\\napi\\napi-2\\ncaddy\\n' >fake/services
            echo 0 >fake/next; touch fake/calls fake/containers";
        host.shell(set_up).await;
        host.deploy(&[], &[("SOURCE", image)]).await.succeeded();
        assert_eq!(host.containers(), [format!("worker {image}"), format!("api {image}")]);
        assert_eq!(host.read("servers"), "up --detach --wait --no-recreate postgres redis\n");
        host.take_calls();
        host
    }

    fn command(&self, program: &str) -> Command {
        let path = format!("{}/bin:{}", self.0.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(program);
        command
            .current_dir(self.0.path())
            .env_clear()
            .env("PATH", path)
            .env("FAKE", self.0.path().join("fake"))
            .env("ROOT", env!("CARGO_MANIFEST_DIR"));
        command
    }

    async fn shell(&self, text: &str) {
        let mut shell = self.command("/bin/sh");
        shell.args(["-euc", text]);
        run(shell).await.succeeded();
    }

    async fn deploy(&self, args: &[&str], variables: &[(&str, &str)]) -> Ended {
        let mut script = self.command("/bin/sh");
        script.arg("scripts/deploy").args(args).envs(variables.iter().copied());
        run(script).await
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(Path::join(self.0.path(), "fake").join(file)).unwrap()
    }

    /// Writes a file, whose path is relative to the directory of the host.
    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.path().join(file), text).unwrap();
    }

    /// Replaces the containers, as an interrupted deployment may have left them. Forgets the recorded calls.
    fn set_containers(&self, lines: &[&str]) {
        self.write("fake/containers", &(lines.join("\n") + "\n"));
        self.take_calls();
    }

    /// Returns the calls that the fake docker has recorded since the last call of this function.
    fn take_calls(&self) -> Vec<String> {
        let calls = self.read("calls").lines().map(str::to_owned).collect();
        self.write("fake/calls", "");
        calls
    }

    /// Returns the service, the image, the settings and the state of each container, the oldest first. Leaves out the state if
    /// it is `running`, and then also the settings if they are `plain`.
    fn containers(&self) -> Vec<String> {
        let lines = self.read("containers");
        let fields = |line: &str| {
            let (_, fields) = line.split_once(' ').unwrap();
            fields.trim_end_matches(" running").trim_end_matches(" plain").to_owned()
        };
        lines.lines().map(fields).collect()
    }

    /// Returns [`Self::containers`] in alphabetical order.
    fn sorted_containers(&self) -> Vec<String> {
        let mut containers = self.containers();
        containers.sort();
        containers
    }
}

#[tokio::test]
async fn a_deployment_migrates_first_and_lets_old_workers_finish_last() {
    let host = Host::with_image("sha256:one").await;
    host.shell("docker compose up --scale worker=2 worker; : >fake/calls").await;
    let new = [("SOURCE", "sha256:two")];
    let deployed = host.deploy(&[], &new).await.succeeded();
    assert!(deployed.stdout.contains("--rollback"), "{deployed:?}");
    let expected = [
        "build migrate as saas:next",
        "exec postgres psql",
        "run --rm --no-deps --no-TTY migrate with sha256:two",
        "run --detach api with sha256:two",
        "up --detach --no-deps --no-recreate --scale worker=4 worker",
        "up --detach --no-deps --scale api=1 api",
        "stop worker-1 worker-3",
        "up --detach --no-deps --scale worker=2 worker",
    ];
    assert_eq!(host.take_calls(), expected);
    let after = ["worker sha256:two", "worker sha256:two", "api sha256:two"];
    assert_eq!(host.containers(), after);

    assert!(host.read("sql").contains("CREATE ROLE saas_tenant NOLOGIN"), "{}", host.read("sql"));

    // A deployment without a change replaces nothing. EXEC_STATUS simulates a volume of release 0.1.0, which has no
    // role `postgres`.
    host.deploy(&[], &[new[0], ("EXEC_STATUS", "2")]).await.succeeded();
    assert_eq!(host.containers(), after);
    assert!(!host.take_calls().iter().any(|call| call.starts_with("stop")));

    // A rollback does not change the schema. A second rollback does not deploy the newer image again.
    for _ in 0..2 {
        host.deploy(&["--rollback"], &[]).await.succeeded();
        assert_eq!(host.containers(), ["worker sha256:one", "worker sha256:one", "api sha256:one"]);
        let calls = host.take_calls();
        let changes =
            |call: &String| ["run --rm", "build", "exec"].iter().any(|start| call.starts_with(start));
        assert!(!calls.iter().any(changes), "{calls:?}");
    }
}

#[tokio::test]
async fn a_failed_deployment_leaves_the_old_version_running() {
    let host = Host::with_image("sha256:one").await;
    host.deploy(&["--rollback"], &[]).await.failed(1, &["no image of an earlier deployment"]);
    host.deploy(&[], &[("SOURCE", "sha256:two")]).await.succeeded();
    let before = host.containers();
    host.take_calls();
    let new = ("SOURCE", "sha256:three");

    let failed = host.deploy(&[], &[new, ("MIGRATE_STATUS", "1")]).await;
    failed.failed(1, &["the migrations failed", "the old version keeps running"]);
    assert_eq!(host.containers(), before);
    assert_eq!(host.read("images/saas").trim(), "sha256:two", "`docker compose up` would start this image");
    assert_eq!(host.take_calls().len(), 3);

    let failed = host.deploy(&[], &[new, ("BROKEN", "trial sha256:three")]).await;
    failed.failed(1, &["is not healthy", "log of", "no container was replaced"]);
    assert_eq!(host.containers(), before);
    assert_eq!(host.read("images/saas").trim(), "sha256:two");
    assert_eq!(host.read("images/saas_previous").trim(), "sha256:one");
    assert!(!host.take_calls().iter().any(|call| call.starts_with("up") || call.starts_with("stop")));

    for service in ["worker", "api"] {
        let broken = format!("{service} sha256:three");
        let failed = host.deploy(&[], &[new, ("BROKEN", &broken)]).await;
        failed.failed(1, &["is not healthy", "log of", "the old one runs again"]);
        assert_eq!(host.sorted_containers(), ["api sha256:two", "worker sha256:two"], "{service}");
        assert_eq!(host.read("images/saas").trim(), "sha256:two");
        assert_eq!(host.read("images/saas_previous").trim(), "sha256:one");
    }
    host.deploy(&["--rollback"], &[]).await.succeeded();
    assert!(host.containers().iter().all(|container| container.ends_with("sha256:one")));
}

#[tokio::test]
async fn a_deployment_replaces_replicas_one_after_the_other() {
    let host = Host::with_image("sha256:one").await;
    host.shell("docker compose up --scale api-2=1 api-2; : >fake/calls").await;
    host.deploy(&["--image", "registry.example.com/saas:2"], &[("SOURCE", "sha256:two"), ("WORKERS", "3")])
        .await
        .succeeded();
    let expected = [
        "pull registry.example.com/saas:2",
        "exec postgres psql",
        "run --rm --no-deps --no-TTY migrate with sha256:two",
        "run --detach api with sha256:two",
        "up --detach --no-deps --no-recreate --scale worker=4 worker",
        "up --detach --no-deps --scale api=1 api",
        "up --detach --no-deps --scale api-2=1 api-2",
        "stop worker-1",
        "up --detach --no-deps --scale worker=3 worker",
    ];
    assert_eq!(host.take_calls(), expected);

    // New replicas of one service start beside the old replicas, which stop when the new ones are healthy.
    host.shell("docker compose up --scale api=2 api; : >fake/calls").await;
    let image = "registry.example.com/saas:3";
    host.deploy(&[], &[("SOURCE", "sha256:three"), ("SAAS_IMAGE", image), ("WORKERS", "1")])
        .await
        .succeeded();
    let calls = host.take_calls();
    assert_eq!(calls[0], format!("pull {image}"));
    let beside = calls.iter().position(|call| call.ends_with("--no-recreate --scale api=4 api")).unwrap();
    assert!(calls[beside + 1].starts_with("stop api-"), "{calls:?}");
    assert_eq!(host.containers().len(), 4);

    // A deployment starts the services of a profile that is new in .env.
    host.shell("docker compose up --scale api-2=0 api-2").await;
    let proxy = [("SOURCE", "sha256:four"), ("COMPOSE_PROFILES", "proxy"), ("WORKERS", "1")];
    host.deploy(&[], &proxy).await.succeeded();
    let after = ["api sha256:four", "api sha256:four", "api-2 sha256:four", "worker sha256:four"];
    assert_eq!(host.sorted_containers(), after);
    assert!(host.read("servers").ends_with("up --detach --no-deps --no-recreate caddy\n"));
}

#[tokio::test]
async fn changed_settings_replace_containers_as_a_new_image_does() {
    let host = Host::with_image("sha256:one").await;
    host.shell("docker compose up --scale worker=2 worker; : >fake/calls").await;
    host.write(".env", "SETTINGS=changed\n");
    host.deploy(&[], &[("SOURCE", "sha256:one")]).await.succeeded();
    let changed = ["worker sha256:one changed", "worker sha256:one changed", "api sha256:one changed"];
    assert_eq!(host.containers(), changed);
    let calls = host.take_calls();
    for call in ["up --detach --no-deps --no-recreate --scale worker=4 worker", "stop worker-1 worker-3"] {
        assert!(calls.iter().any(|made| made == call), "{calls:?}");
    }

    // Settings that do not work leave the old workers running. The number of workers stays the same.
    host.write(".env", "SETTINGS=bad\n");
    let same_image = [("SOURCE", "sha256:one"), ("BROKEN", "worker sha256:one bad")];
    host.deploy(&[], &same_image).await.failed(1, &["is not healthy", "no other image to go back to"]);
    assert_eq!(host.containers(), changed);
    let new_image = [("SOURCE", "sha256:two"), ("BROKEN", "worker sha256:two")];
    host.deploy(&[], &new_image).await.failed(1, &["is not healthy", "the old one runs again"]);
    assert_eq!(host.containers(), changed);
    host.write(".env", "SETTINGS=good\n");
    host.deploy(&[], &same_image).await.succeeded();
    let good = ["worker sha256:one good", "worker sha256:one good", "api sha256:one good"];
    assert_eq!(host.containers(), good);
}

#[tokio::test]
async fn only_a_restart_during_the_deployment_is_a_failure() {
    let host = Host::with_image("sha256:one").await;
    for service in ["worker", "api"] {
        let restarted = format!("{service} sha256:one");
        host.deploy(&[], &[("SOURCE", "sha256:one"), ("RESTARTED", &restarted)]).await.succeeded();
    }
    for service in ["trial", "worker", "api"] {
        let looping = format!("{service} sha256:two");
        let failed = host.deploy(&[], &[("SOURCE", "sha256:two"), ("LOOPING", &looping)]).await;
        failed.failed(1, &["is not healthy"]);
        assert_eq!(host.sorted_containers(), ["api sha256:one", "worker sha256:one"], "{service}");
    }
}

#[tokio::test]
async fn a_deployment_that_cannot_succeed_changes_nothing() {
    let host = Host::with_image("sha256:one").await;
    let before = host.containers();
    let digest = "registry.example.com/saas@sha256:abc";
    let new = ("SOURCE", "sha256:two");
    host.deploy(&[], &[new, ("SAAS_IMAGE", digest)]).await.failed(1, &["has a digest", "--image"]);
    assert_eq!(host.take_calls(), [""; 0]);
    host.deploy(&[], &[new, ("PS_STATUS", "1")]).await.failed(1, &["cannot list the containers"]);
    assert_eq!(host.take_calls(), ["build migrate as saas:next"]);
    assert_eq!(host.containers(), before);

    // A pull gives the name to the new image. If the migrations fail, the script gives the name back to the old image.
    let tag = ("SAAS_IMAGE", "registry.example.com/saas:1");
    host.deploy(&[], &[new, tag]).await.succeeded();
    let newer = [("SOURCE", "sha256:three"), tag, ("MIGRATE_STATUS", "1")];
    host.deploy(&[], &newer).await.failed(1, &["the migrations failed"]);
    assert_eq!(host.read("images/registry.example.com_saas_1").trim(), "sha256:two");

    // An old worker that cannot be removed is not a failure. In .env, WORKERS may have `export`, quotes and a comment.
    host.write(".env", "export WORKERS='3' # three\n");
    host.deploy(&["--image", digest], &[newer[0], ("RM_STATUS", "1")]).await.succeeded();
    let after = ["api", "worker", "worker", "worker"].map(|service| format!("{service} sha256:three"));
    assert_eq!(host.sorted_containers(), after);
}

#[tokio::test]
async fn a_second_deployment_completes_an_interrupted_one() {
    let host = Host::with_image("sha256:one").await;
    // Simulates a deployment that was interrupted after it had started the new worker and replaced the API.
    host.shell(
        "printf '%s\\n' 'a worker sha256:one' 'b worker sha256:two' 'c api sha256:two' >fake/containers; : >fake/calls",
    )
    .await;
    host.deploy(&[], &[("SOURCE", "sha256:two")]).await.succeeded();
    assert_eq!(host.containers(), ["worker sha256:two", "api sha256:two"]);
    assert_eq!(
        host.take_calls().iter().filter(|call| call.starts_with("stop")).collect::<Vec<_>>(),
        ["stop a"]
    );
    assert_eq!(host.read("images/saas_previous").trim(), "sha256:one");

    // Containers of `api` and `api-2` that an interrupted deployment may leave: an ended one, a created one, or none. `api-2`
    // belongs to a profile that is not selected. In each case, the trial container is left too.
    let cases: [&[&str]; 5] = [
        &["c api sha256:one plain exited", "d api sha256:two plain created"],
        &["d api sha256:two plain created"],
        &[],
        &["c api sha256:one plain exited", "d api-2 sha256:one"],
        &["c api sha256:two", "d api-2 sha256:one plain exited"],
    ];
    for apis in cases {
        let workers = ["a worker sha256:one", "b worker sha256:two", "fake-trial trial sha256:two"];
        host.set_containers(&[&workers[..], apis].concat());
        host.deploy(&[], &[("SOURCE", "sha256:two")]).await.succeeded();
        let mut after = vec!["api sha256:two", "api-2 sha256:two", "worker sha256:two"];
        after.retain(|container| !container.starts_with("api-2") || apis.concat().contains("api-2"));
        assert_eq!(host.sorted_containers(), after, "{apis:?}");
        let calls = host.take_calls();
        for call in ["exec postgres psql", "run --detach api with sha256:two", "stop a"] {
            assert!(calls.iter().any(|made| made == call), "{apis:?}: {calls:?}");
        }
    }

    // Another deployment after an interrupted one: the version to go back to is the one before both.
    for (broken, version) in
        [("none", "sha256:three"), ("worker sha256:three", "sha256:one"), ("api sha256:three", "sha256:one")]
    {
        host.set_containers(&["c api sha256:two", "a worker sha256:one", "b worker sha256:two"]);
        let ended = host.deploy(&[], &[("SOURCE", "sha256:three"), ("BROKEN", broken)]).await;
        assert_eq!(ended.code, Some(i32::from(version == "sha256:one")), "{ended:?}");
        assert_eq!(host.sorted_containers(), [format!("api {version}"), format!("worker {version}")]);
        assert_eq!(host.read("images/saas_previous").trim(), "sha256:one");
    }
    let lock = fs::File::create(host.0.path().join(".deploy.lock")).unwrap();
    lock.lock().unwrap();
    host.deploy(&[], &[("SOURCE", "sha256:three")]).await.failed(1, &["another deployment"]);
    drop(lock);
    host.deploy(&["--image"], &[]).await.failed(1, &["--image needs the name"]);
    host.deploy(&["--now"], &[]).await.failed(1, &["unknown argument --now"]);
}
