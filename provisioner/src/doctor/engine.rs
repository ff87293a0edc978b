//! The hops to the engine itself: one connection and one question, whose failures are told apart.

use super::{Found, Report, Trouble, trouble};
use crate::connect::{self, Stream, Way};
use crate::ssh::Session;
use crate::store::{Machine, Via, files};
use bytes::Bytes;
use drivers::driver::Driver;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::net::SocketAddr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(super) const HOPS: [&str; 5] = ["engine port", "certificates", "TLS", "clock", "API"];

/// A clock that is further off than this makes certificates begin too late or end too early.
const SKEW: time::Duration = time::Duration::minutes(5);
/// API versions that this berth speaks (1.x).
const SPOKEN: std::ops::RangeInclusive<u16> = 24..=50;
/// An answer larger than this is none that we asked for.
const LARGEST: usize = 1 << 20;

/// What the engine answered to `GET /version`.
struct Answer {
    status: hyper::StatusCode,
    date: Option<OffsetDateTime>,
    body: Bytes,
}

/// What TLS came to.
enum Tls {
    Answer(Answer),
    /// There is TLS or none, but no sensible HTTP in it.
    Silent(String),
}

/// By the port of its own.
pub(super) async fn examine(
    report: &mut Report,
    machine: &Machine,
    driver: &dyn Driver,
    addresses: &[SocketAddr],
    session: Option<&Session>,
) {
    let name = &machine.name;
    let port = addresses.first().map_or(0, SocketAddr::port);
    let slow = format!(
        "open TCP port {port} on the machine's firewall and those before it, or reach it over SSH: `berth --via ssh ps`"
    );
    let dialled = report.ask(HOPS[0], &slow, dial(machine, driver, addresses)).await;
    let Some(stream) = dialled else {
        if machine.has_tls() {
            report.tell(HOPS[1], certificates(machine, driver, None, false)).await;
        } else {
            report.skip(&HOPS[1..2], "this engine is spoken to without TLS");
        }
        report.skip(&HOPS[2..3], "there is no connection");
        return over_ssh(report, machine, session.filter(|_| machine.via() != Via::Tls)).await;
    };
    let way = match connect::direct(machine, driver) {
        Ok(way) => way,
        Err(error) => {
            let remedy = format!("`berth provision {name}` writes the client certificate anew");
            report.tell::<()>(HOPS[1], Err(trouble(chain(&error), remedy))).await;
            report.skip(&HOPS[2..3], "the client certificate cannot be used");
            clock(report, machine, None, session).await;
            report.skip(&HOPS[4..], "there is no TLS");
            return;
        }
    };
    let Way::Tls { name: server, config, .. } = way else {
        report.skip(&HOPS[1..3], "this engine is spoken to without TLS");
        let answered = timeout(report.limit, ask(Box::new(stream))).await;
        let said = match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(chain(error.as_ref())),
            Err(_) => Err("it does not answer".to_owned()),
        };
        return answered_with(report, machine, said, session).await;
    };
    let (mut not_after, mut dated) = (None, false);
    let slow = format!("`berth logs --tail 20 {name}` tells what hostd does");
    let asked = report.ask(HOPS[2], &slow, async {
        let shown = rustls::pki_types::ServerName::to_str(&server).into_owned();
        let tls = tokio_rustls::TlsConnector::from(config).connect(server, stream).await;
        let tls = tls.map_err(|error| failed_tls(machine, &error, &mut dated))?;
        let peer = tls.get_ref().1.peer_certificates().and_then(|all| all.first());
        not_after = peer.and_then(|der| certs::not_after_of(der).ok());
        match ask(Box::new(tls)).await {
            Ok(answer) => Ok((format!("the engine is {shown}"), Tls::Answer(answer))),
            // What the engine thinks of our certificate is told with the first answer.
            Err(error) if tls_error(error.as_ref()).is_some() => {
                Err(failed_tls(machine, error.as_ref(), &mut dated))
            }
            Err(error) => Ok((format!("the engine is {shown}"), Tls::Silent(chain(error.as_ref())))),
        }
    });
    let asked = asked.await;
    report.tell(HOPS[1], certificates(machine, driver, not_after, dated)).await;
    // Known last, but first to be looked at: TLS fails by what is wrong with them.
    let last = report.hops.len();
    report.hops.swap(last - 2, last - 1);
    match asked {
        Some(Tls::Answer(answer)) => answered_with(report, machine, Ok(answer), session).await,
        Some(Tls::Silent(error)) => answered_with(report, machine, Err(error), session).await,
        None => {
            clock(report, machine, None, session).await;
            report.skip(&HOPS[4..], "there is no TLS");
        }
    }
}

async fn dial(
    machine: &Machine,
    driver: &dyn Driver,
    addresses: &[SocketAddr],
) -> Found<(String, TcpStream)> {
    let name = &machine.name;
    let url = driver.url().unwrap_or_default();
    match TcpStream::connect(addresses).await {
        Ok(stream) => Ok((format!("{url} answers"), stream)),
        Err(error) => {
            let remedy = if !driver.features().provisions {
                format!("start the engine behind {url}, and open its port")
            } else if error.kind() == std::io::ErrorKind::ConnectionRefused {
                format!(
                    "`berth provision {name}` brings hostd up; `berth logs --tail 20 {name}` tells why it does not listen"
                )
            } else {
                "open the port on the machine's firewall and those before it, or reach it over SSH: `berth --via ssh ps`".to_owned()
            };
            Err(trouble(format!("{url} cannot be reached: {error}"), remedy))
        }
    }
}

async fn ask(stream: Box<dyn Stream>) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection; errors reach the request.
    let running = tokio::spawn(connection);
    let request = Request::get("/version").header("Host", "engine").body(Empty::<Bytes>::new())?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok());
        let body = Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes();
        Ok(Answer { status, date, body })
    };
    let answer = answered.await;
    running.abort();
    answer
}

/// Clock and API of an engine that has answered.
async fn answered_with(
    report: &mut Report,
    machine: &Machine,
    said: Result<Answer, String>,
    session: Option<&Session>,
) {
    let date = said.as_ref().ok().and_then(|answer| answer.date);
    clock(report, machine, date, session).await;
    let remedy = format!("`berth upgrade {}` brings a hostd that berth understands", machine.name);
    let found = said.map_err(|error| trouble(error, remedy.clone())).and_then(|answer| api(&answer, &remedy));
    report.tell(HOPS[4], found).await;
}

/// Clock and API through the SSH session, where there is no other way.
pub(super) async fn over_ssh(report: &mut Report, machine: &Machine, session: Option<&Session>) {
    clock(report, machine, None, session).await;
    if session.is_none() {
        return report.skip(&HOPS[4..], "there is no way there");
    }
    let name = &machine.name;
    let remedy = format!("`berth provision {name}` brings hostd up");
    let asked = async {
        let way = connect::way(machine).map_err(|error| trouble(chain(&error), remedy.clone()))?;
        let dialled = way.dial().await.map_err(|error| trouble(chain(&error), remedy.clone()))?;
        let answer = ask(dialled.stream).await;
        let answer = answer.map_err(|error| trouble(chain(error.as_ref()), remedy.clone()))?;
        let (text, ()) = api(&answer, &remedy)?;
        Ok((format!("{text}, over {}", dialled.over), ()))
    };
    report.ask(HOPS[4], &remedy, asked).await;
}

async fn clock(
    report: &mut Report,
    machine: &Machine,
    date: Option<OffsetDateTime>,
    session: Option<&Session>,
) {
    let (asked, how) = match (date, session) {
        (Some(date), _) => (date, "by its answer's date"),
        // A machine in trouble may answer on the line and still not run anything.
        (None, Some(session)) => match timeout(report.limit, session.run("date -u +%s", b"")).await {
            Ok(Ok(said)) => match said.stdout.trim().parse().map(OffsetDateTime::from_unix_timestamp) {
                Ok(Ok(date)) => (date, "by SSH"),
                _ => return report.skip(&HOPS[3..4], "the machine does not tell the time"),
            },
            _ => return report.skip(&HOPS[3..4], "the machine does not tell the time"),
        },
        (None, None) => return report.skip(&HOPS[3..4], "the machine does not tell the time"),
    };
    let skew = asked - OffsetDateTime::now_utc();
    let ahead = if skew.is_positive() { "ahead of" } else { "behind" };
    let text = format!("{} seconds {ahead} this computer's, {how}", skew.whole_seconds().unsigned_abs());
    let found = if skew.abs() <= SKEW {
        Ok((text, ()))
    } else if session.is_some() {
        let remedy = format!(
            "`berth ssh {} -- sudo date -u -s @$(date +%s)`, where this computer's clock is right",
            machine.name
        );
        Err(trouble(text, remedy))
    } else {
        Err(trouble(
            text,
            "set the clock of the machine, or of this computer: `date -u` on both tells which is wrong",
        ))
    };
    report.tell(HOPS[3], found).await;
}

fn api(answer: &Answer, remedy: &str) -> Found<(String, ())> {
    let Answer { status, body, .. } = answer;
    if !status.is_success() {
        let said = String::from_utf8_lossy(body);
        return Err(trouble(format!("it answers {status}: {}", said.trim()), remedy));
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Version {
        version: String,
        api_version: String,
        #[serde(default, rename = "MinAPIVersion")]
        min_api_version: String,
    }
    let version: Version = serde_json::from_slice(body)
        .map_err(|error| trouble(format!("what answers is no engine: {error}"), remedy))?;
    let minor = |text: &str| text.strip_prefix("1.").and_then(|minor| minor.parse::<u16>().ok());
    let newest = minor(&version.api_version);
    // Engines that do not tell speak all that are older.
    let oldest = minor(&version.min_api_version).unwrap_or(0);
    let text = format!("engine {} speaks API {}", version.version, version.api_version);
    if newest.is_some_and(|newest| newest >= *SPOKEN.start()) && oldest <= *SPOKEN.end() {
        return Ok((text, ()));
    }
    let (start, end) = SPOKEN.into_inner();
    Err(trouble(format!("{text}, and berth speaks 1.{start} to 1.{end}"), remedy))
}

/// A failure of TLS, and whether it is one of dates, which are a hop of their own.
fn failed_tls(machine: &Machine, error: &(dyn Error + 'static), dated: &mut bool) -> Trouble {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as E};
    let name = &machine.name;
    let anew = format!("`berth provision {name}` issues certificates anew");
    let remedy = match tls_error(error) {
        Some(E::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
            format!(
                "another machine may have its address: `berth ip {name}` and `berth url {name}` tell where it was looked for; {anew}"
            )
        }
        Some(
            E::InvalidCertificate(
                Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
            )
            | E::AlertReceived(Alert::CertificateExpired),
        ) => {
            *dated = true;
            format!("see certificates and clock; {anew}")
        }
        Some(_) => anew,
        None => format!("`berth logs --tail 20 {name}` tells what hostd does; {anew}"),
    };
    trouble(chain(error), remedy)
}

/// The TLS error below an error, wherever it lies: an I/O error hides what it is made of.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// An error with its causes on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Until when the client's certificate, the authority's and the server's are valid; `dated`: TLS says that one is not.
fn certificates(
    machine: &Machine,
    driver: &dyn Driver,
    server: Option<OffsetDateTime>,
    dated: bool,
) -> Found<(String, ())> {
    let name = &machine.name;
    let ours = driver.features().provisions;
    let remedy = |whose: &str| match (ours, whose) {
        (true, "authority") => format!(
            "move {} away, then `berth provision` every machine: a new authority is made",
            machine.home().join("certs").display()
        ),
        (true, _) => format!("`berth provision {name}` issues it anew"),
        (false, _) => format!("get another from whoever runs the engine, and create `{name}` with it"),
    };
    let tls = machine.tls();
    let mut ends = Vec::new();
    for (whose, path) in [("client", &tls.cert), ("authority", &tls.ca)] {
        let text = files::read(path, 1 << 20)
            .map_err(|error| trouble(format!("cannot read {}: {error}", path.display()), remedy(whose)))?;
        let end = certs::not_after(&text)
            .map_err(|error| trouble(format!("{}: {}", path.display(), chain(&error)), remedy(whose)))?;
        ends.push((whose, end));
    }
    let noted = machine.record.server_certificate.as_ref().map(|noted| noted.not_after);
    ends.extend(server.or(noted).map(|end| ("server", end)));
    let now = OffsetDateTime::now_utc();
    if let Some((whose, end)) = ends.iter().find(|(_, end)| *end <= now) {
        return Err(trouble(format!("the {whose}'s certificate ended on {}", end.date()), remedy(whose)));
    }
    if dated {
        // Not ours: it is the one that the engine shows, which TLS does not hand out.
        let text = "the certificate that the engine shows has ended, or has not begun";
        return Err(trouble(text, remedy("server")));
    }
    let days = |(whose, end): &(&str, OffsetDateTime)| format!("{whose} {} days", (*end - now).whole_days());
    Ok((ends.iter().map(days).collect::<Vec<_>>().join(", "), ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer { status: hyper::StatusCode::OK, date: None, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn versions_that_meet_ours_will_do() {
        for (newest, oldest, good) in
            [("1.50", "1.24", true), ("1.99", "1.44", true), ("1.12", "1.0", false), ("1.99", "1.51", false)]
        {
            let body = format!(r#"{{"Version":"1","ApiVersion":"{newest}","MinAPIVersion":"{oldest}"}}"#);
            assert_eq!(api(&answer(&body), "").is_ok(), good, "{body}");
        }
        assert!(api(&answer("<html>"), "").is_err());
    }

    #[test]
    fn the_date_of_an_answer_is_read() {
        let date = OffsetDateTime::parse("Sun, 06 Nov 1994 08:49:37 GMT", &Rfc2822).unwrap();
        assert_eq!(date.unix_timestamp(), 784_111_777);
    }

    #[test]
    fn a_tls_error_is_found_below_others() {
        let tls = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
        let below = std::io::Error::other(std::io::Error::other(tls));
        assert!(tls_error(&below).is_some());
        assert!(tls_error(&std::io::Error::other("else")).is_none());
    }
}
