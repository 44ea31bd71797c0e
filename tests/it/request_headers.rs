//! Headers are byte sequences. A part of a header that is not UTF-8, such as a cookie or an address, does not affect how
//! the other parts are parsed. Cookie names are compared byte by byte.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
};

/// The lines of a header. The tests replace `NAME` and `TOKEN` by the name and the value of a cookie.
type Lines<'a> = &'a [&'a [u8]];

/// Settings without TLS and with TLS. TLS changes the names of the cookies.
const MODES: [&[&str]; 2] = [&[], &["--public-url=https://api.example.com"]];

fn with_lines(request: RequestBuilder, name: &str, lines: Lines<'_>) -> RequestBuilder {
    lines.iter().fold(request, |request, line| request.header(name, *line))
}

struct Cookie {
    name: String,
    token: String,
}

impl Cookie {
    /// Sends a request with a header that contains this cookie.
    async fn send(&self, request: RequestBuilder, header: &str, lines: Lines<'_>) -> Answer {
        // Converts each byte to one character, so that the text can be replaced and converted back.
        let fill = |line: &&[u8]| -> Vec<u8> {
            let text: String = line.iter().map(|octet| char::from(*octet)).collect();
            let text = text.replace("NAME", &self.name).replace("TOKEN", &self.token);
            text.chars().map(|c| u8::try_from(c).unwrap()).collect()
        };
        let lines: Vec<_> = lines.iter().map(fill).collect();
        let lines: Vec<_> = lines.iter().map(Vec::as_slice).collect();
        Answer::of(with_lines(request, header, &lines)).await
    }

    /// Sends a request from a page of the API's own origin.
    async fn post(&self, app: &TestApp, path: &str, lines: Lines<'_>) -> Answer {
        let request = app.request(Method::POST, path).header("sec-fetch-site", "same-origin");
        self.send(request.json(&json!({})), "cookie", lines).await
    }

    async fn me(&self, app: &TestApp, lines: Lines<'_>) -> Answer {
        self.send(app.request(Method::GET, "/users/me"), "cookie", lines).await
    }

    /// Returns other spellings of the name, which a framework could mistake for the name.
    fn similar_names(&self) -> Vec<String> {
        let encode = |octet: u8| format!("%{octet:02X}");
        let mut names: Vec<_> = (0..self.name.len())
            .map(|at| {
                let (before, rest) = self.name.split_at(at);
                format!("{before}{}{}", encode(rest.as_bytes()[0]), &rest[1..])
            })
            .collect();
        names.extend(names.clone().into_iter().map(|name| name.to_lowercase()));
        names.push(self.name.bytes().map(encode).collect());
        names.push(self.name.to_uppercase());
        let bare = self.name.trim_start_matches("__Host-");
        names.extend(["", "__Host-", "__host-", "__Secure-"].map(|prefix| format!("{prefix}{bare}")));
        names.retain(|name| *name != self.name);
        names
    }
}

/// Signs in as a browser does. Returns the cookies with the access token and the refresh token.
async fn sign_in(app: &TestApp, user: &User) -> [Cookie; 2] {
    let fields = [("username", user.email.as_str()), ("password", PASSWORD)];
    let form = app.form("/auth/login?delivery=cookie", &fields).header("sec-fetch-site", "same-origin");
    let answer = Answer::of(form).await;
    assert_eq!(answer.status, 204, "{}", answer.text);
    ["access", "refresh"].map(|kind| {
        let mut lines = answer.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
        let line = lines.find(|line| line.contains(kind)).unwrap();
        let (name, token) = line.split(';').next().unwrap().split_once('=').unwrap();
        Cookie { name: name.into(), token: token.into() }
    })
}

#[tokio::test]
async fn smoke_a_cookie_name_is_matched_byte_by_byte() {
    let accepted: [Lines<'_>; 9] = [
        &[b"NAME=TOKEN"],
        &[b"utm=Unders\xf8; NAME=TOKEN"],
        &[b"NAME=TOKEN; utm=Unders\xc3\xb8"],
        &[b"a=\xff;NAME=TOKEN;\xf8=b"],
        &[b"; ;flag;=;=x;\tNAME=TOKEN ;"],
        &[b"quoted=\"a; NAME=TOKEN; b\""],
        &[b"xNAME=x; NAME=TOKEN; NAMEx=x"],
        &[b"a=\xf8", b"NAME=TOKEN", b"c=\xf8"],
        &[b"", b"NAME=TOKEN"],
    ];
    let absent: [Lines<'_>; 12] = [
        &[b""],
        &[b";"],
        &[b"NAME"],
        &[b"NAME="],
        &[b"NAME; TOKEN"],
        &[b"NAME =TOKEN"],
        &[b"\"NAME\"=TOKEN"],
        &[b"=NAME=TOKEN"],
        &[b"x=NAME=TOKEN"],
        &[b"x=y, NAME=TOKEN"],
        &[b"\xa0NAME=TOKEN"],
        &[b"\xc2\xa0NAME=TOKEN"],
    ];
    let invalid: [Lines<'_>; 10] = [
        &[b"NAME=\"TOKEN\""],
        &[b"NAME=%22TOKEN"],
        &[b"NAME=TOKEN\xf8"],
        &[b"NAME=TOKEN; NAME=TOKEN"],
        &[b"NAME=TOKEN; NAME=other"],
        &[b"NAME=other; NAME=TOKEN"],
        &[b"NAME=; NAME=TOKEN"],
        &[b"NAME=\xf8; NAME=TOKEN"],
        &[b"NAME=TOKEN", b"NAME=TOKEN"],
        &[b"a=b; NAME=TOKEN", b"c=d; NAME=other"],
    ];
    for flags in MODES {
        let app = TestApp::with(flags).await;
        let [access, _] = sign_in(&app, &app.user().await).await;
        for lines in accepted {
            assert_eq!(access.me(&app, lines).await.status, 200, "{lines:?}");
        }
        for lines in absent {
            access.me(&app, lines).await.is_some_problem(401, "not_authenticated");
        }
        for lines in invalid {
            access.me(&app, lines).await.is_some_problem(401, "invalid_token");
        }
        let encoded_value = format!("NAME={}", access.token.replace('.', "%2E"));
        access.me(&app, &[encoded_value.as_bytes()]).await.is_some_problem(401, "invalid_token");
        for name in access.similar_names() {
            let alone = format!("{name}=TOKEN");
            access.me(&app, &[alone.as_bytes()]).await.is_some_problem(401, "not_authenticated");
            let planted = format!("{name}=other; NAME=TOKEN");
            assert_eq!(access.me(&app, &[planted.as_bytes()]).await.status, 200, "{name}");
        }
    }
}

#[tokio::test]
async fn the_name_of_the_refresh_cookie_is_matched_byte_by_byte() {
    let repeated: [Lines<'_>; 2] = [&[b"NAME=TOKEN; NAME=TOKEN"], &[b"NAME=other", b"NAME=TOKEN"]];
    for flags in MODES {
        let app = TestApp::with(flags).await;
        let [_, refresh] = sign_in(&app, &app.user().await).await;
        for path in ["/auth/refresh", "/auth/logout"] {
            for lines in repeated {
                refresh.post(&app, path, lines).await.is_some_problem(401, "invalid_token");
            }
            for name in refresh.similar_names() {
                let line = format!("{name}=TOKEN");
                let answer = refresh.post(&app, path, &[line.as_bytes()]).await;
                answer.is_some_problem(401, "not_authenticated");
            }
        }
        let answer = refresh.post(&app, "/auth/refresh", &[b"utm=Unders\xf8; NAME=TOKEN"]).await;
        assert_eq!(answer.status, 204, "{}", answer.text);
    }
}

#[tokio::test]
async fn an_unreadable_bearer_token_does_not_fall_back_to_the_cookie() {
    let app = TestApp::start().await;
    let [access, _] = sign_in(&app, &app.user().await).await;
    let me = || {
        app.request(Method::GET, "/users/me").header("cookie", format!("{}={}", access.name, access.token))
    };
    let invalid: [Lines<'_>; 4] = [
        &[b"Bearer TOKEN\xf8"],
        &[b"Bearer \xf8"],
        &[b"Bearer TOKEN", b"Bearer TOKEN"],
        &[b"Basic x", b"bearer other"],
    ];
    for lines in invalid {
        access.send(me(), "authorization", lines).await.is_some_problem(401, "invalid_token");
    }
    let valid: [Lines<'_>; 2] = [&[b"bearer TOKEN"], &[b"Basic \xf8"]];
    for lines in valid {
        assert_eq!(access.send(me(), "authorization", lines).await.status, 200);
    }
}

/// Logs in with a header. Returns a field of the new session.
async fn log_in_and_read_session(
    app: &TestApp,
    user: &User,
    header: &str,
    lines: Lines<'_>,
    field: &str,
) -> Value {
    let form = app.form("/auth/login", &[("username", user.email.as_str()), ("password", PASSWORD)]);
    let login = Answer::of(with_lines(form, header, lines)).await;
    let list = app.get("/users/me/sessions", Some(&User::signed_in(user.id, &user.email, &login))).await;
    let sessions = list.body.as_array().unwrap();
    sessions.iter().find(|session| session["current"] == true).unwrap()[field].clone()
}

#[tokio::test]
async fn a_user_agent_is_stored_with_replacement_characters() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let agents: [(&[u8], &str); 3] = [
        (b"Unders\xf8/1.0", "Unders\u{fffd}/1.0"),
        (b"Unders\xc3\xb8/1.0", "Unders\u{f8}/1.0"),
        (b"a\xc2\x85b\tc", "abc"),
    ];
    for (agent, device) in agents {
        assert_eq!(log_in_and_read_session(&app, &user, "user-agent", &[agent], "device").await, device);
    }
}

#[tokio::test]
async fn each_entry_of_x_forwarded_for_is_parsed_independently() {
    let app = TestApp::with(&["--trusted-proxies=1"]).await;
    let user = app.user().await;
    let cases: [(Lines<'_>, Value); 16] = [
        (&[b"\xf8, 203.0.113.7"], json!("203.0.113.7")),
        (&[b"\xff\xfe", b"203.0.113.7"], json!("203.0.113.7")),
        (&[b"198.51.100.1", b"\xf8,203.0.113.7:4711"], json!("203.0.113.7")),
        (&[b"[2001:db8::7]"], json!("2001:db8::7")),
        (&[b"[2001:db8::7]:443"], json!("2001:db8::7")),
        (&[b"[::ffff:203.0.113.7]:80"], json!("203.0.113.7")),
        // The last entry, which the proxy has added, is not an address. So the client address is unknown: the server
        // does not trust the other entries, and the connection has the address of the proxy.
        (&[b"203.0.113.7, \xf8"], Value::Null),
        (&[b"203.0.113.7", b"unknown"], Value::Null),
        (&[b"203.0.113.7,"], Value::Null),
        (&[b"\"unknown\""], Value::Null),
        (&[b"_hidden"], Value::Null),
        (&[b"203.0.113.7:"], Value::Null),
        (&[b"[2001:db8::7"], Value::Null),
        (&[b"proxy.example:443"], Value::Null),
        (&[b""], Value::Null),
        (&[], json!("127.0.0.1")),
    ];
    for (lines, address) in cases {
        let found = log_in_and_read_session(&app, &user, "x-forwarded-for", lines, "address").await;
        assert_eq!(found, address, "{lines:?}");
    }
}

#[tokio::test]
async fn a_client_address_that_no_trusted_proxy_has_added_is_unknown() {
    let app = TestApp::with(&["--trusted-proxies=2"]).await;
    let user = app.user().await;
    let cases: [(Lines<'_>, Value); 3] = [
        (&[b"203.0.113.7, 198.51.100.1"], json!("203.0.113.7")),
        (&[b"203.0.113.7"], Value::Null),
        (&[], json!("127.0.0.1")),
    ];
    for (lines, address) in cases {
        let found = log_in_and_read_session(&app, &user, "x-forwarded-for", lines, "address").await;
        assert_eq!(found, address, "{lines:?}");
    }
}

#[tokio::test]
async fn accept_encoding_content_type_and_request_id_are_read_as_bytes() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let encodings: [Lines<'_>; 2] = [&[b"\xf8, gzip"], &[b"\xf8", b"br;x=\xf8, GZIP;q=0.5"]];
    for lines in encodings {
        let docs =
            with_lines(app.at_root(Method::GET, "/docs"), "accept-encoding", lines).send().await.unwrap();
        assert_eq!(docs.headers().get("content-encoding").unwrap(), "gzip", "{lines:?}");
    }
    let patch = async |content_type: &[u8]| {
        let request = app.request(Method::PATCH, "/users/me").bearer_auth(&user.token);
        let request = request.header("content-type", content_type).body(r#"{"full_name":"Ada"}"#);
        Answer::of(request).await.status.as_u16()
    };
    assert_eq!(patch(b"application/json ; title=\"\xf8\"").await, 200);
    assert_eq!(patch(b"text/plain; title=\"\xf8\"").await, 415);
    assert_eq!(patch(b"application/json\xf8").await, 415);
    let login = app.request(Method::POST, "/auth/login");
    let login = login.header("content-type", &b"application/x-www-form-urlencoded; title=\"\xf8\""[..]);
    let login = login.body(format!("username={}&password={}", user.email, PASSWORD.replace(' ', "+")));
    assert_eq!(Answer::of(login).await.status, 200);
    let request = app.request(Method::GET, "/users/me").header("x-request-id", &b"id-\xf8"[..]);
    assert_eq!(Answer::of(request).await.header("x-request-id").len(), 36);
}
