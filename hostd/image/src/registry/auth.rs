//! Authentication: what a registry challenges with, and the answer to it.

use super::endpoint::{host, is_insecure};
use super::{Registries, failed};
use crate::error::ImageError;
use crate::model::Auth;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use url::Url;

/// Largest answer of a token server.
const MAX_TOKEN: usize = 1024 * 1024;

/// What stands in `WWW-Authenticate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: String },
}

impl Challenge {
    /// Reads a challenge; `None` where it is of no kind that is known.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, String::new());
        for (key, value) in parameters(rest) {
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = value,
                _ => {}
            }
        }
        Some(Self::Bearer { realm: realm?, service })
    }
}

/// `key="quoted, value",key=token`
fn parameters(mut rest: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_owned();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"').unwrap_or(quoted.len());
                (&quoted[..end], quoted.get(end + 1..).unwrap_or(""))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((key, value.trim().to_owned()));
        rest = next;
    }
    found
}

/// The value of `Authorization` that answers a challenge; `None` where there is nothing to say.
pub(super) async fn answer(
    registries: &Registries,
    base: &Url,
    challenge: &Challenge,
    repository: &str,
    auth: Option<&Auth>,
) -> Result<Option<String>, ImageError> {
    let auth = auth.cloned().unwrap_or_default();
    match challenge {
        Challenge::Basic => Ok(basic(&auth)),
        Challenge::Bearer { .. } if !auth.registrytoken.is_empty() => {
            Ok(Some(format!("Bearer {}", auth.registrytoken)))
        }
        Challenge::Bearer { realm, service } => {
            let realm = checked_realm(base, realm)?;
            let scope = format!("repository:{repository}:pull");
            let token = fetch(registries, realm, service, &scope, &auth).await?;
            Ok(Some(format!("Bearer {token}")))
        }
    }
}

fn basic(auth: &Auth) -> Option<String> {
    let pair = format!("{}:{}", auth.username, auth.password);
    (!auth.username.is_empty()).then(|| format!("Basic {}", STANDARD.encode(pair)))
}

/// A registry that is verified may not have the password sent in clear elsewhere.
fn checked_realm(base: &Url, realm: &str) -> Result<Url, ImageError> {
    match Url::parse(realm) {
        Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && base.scheme() == "http") => Ok(url),
        _ => Err(ImageError::RegistryAnswer(format!("{base} names an unusable token server: {realm:?}"))),
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

async fn fetch(
    registries: &Registries,
    realm: Url,
    service: &str,
    scope: &str,
    auth: &Auth,
) -> Result<String, ImageError> {
    let server = host(&realm);
    let client = registries.client(&server, !is_insecure(&registries.config, &server))?;
    let request = if auth.identitytoken.is_empty() {
        let mut url = realm.clone();
        url.query_pairs_mut().append_pair("scope", scope).append_pair("service", service);
        if !auth.username.is_empty() {
            url.query_pairs_mut().append_pair("account", &auth.username);
        }
        let request = client.get(url);
        match basic(auth) {
            Some(basic) => request.header("authorization", basic),
            None => request,
        }
    } else {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", &auth.identitytoken)
            .append_pair("client_id", "hostd")
            .append_pair("service", service)
            .append_pair("scope", scope)
            .finish();
        client.post(realm.clone()).header("content-type", "application/x-www-form-urlencoded").body(form)
    };
    let what = format!("cannot get a token from {server}");
    let answer = request.send().await.map_err(|error| failed(&what, &error))?;
    let status = answer.status();
    let body = super::session::body(answer, MAX_TOKEN, &what).await?;
    if status.as_u16() == 401 || status.as_u16() == 403 {
        return Err(ImageError::Denied("unauthorized: incorrect username or password".into()));
    }
    let token: Option<TokenAnswer> = serde_json::from_slice(&body).ok().filter(|_| status.is_success());
    match token {
        Some(TokenAnswer { token, .. }) if !token.is_empty() => Ok(token),
        Some(TokenAnswer { access_token, .. }) if !access_token.is_empty() => Ok(access_token),
        _ => Err(ImageError::RegistryAnswer(format!("{what}: it answers {status}, without a token"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_in_quotes() {
        let bearer = |realm: &str, service: &str| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.into() })
        };
        for (header, challenge) in [
            (
                r#"Bearer realm="https://a/t",service="r",scope="repository:x:pull,push""#,
                bearer("https://a/t", "r"),
            ),
            (r#"bearer service=r, realm="https://a/t""#, bearer("https://a/t", "r")),
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("Bearer", None),
            ("Negotiate", None),
        ] {
            assert_eq!(Challenge::parse(header), challenge, "{header}");
        }
    }

    #[test]
    fn a_verified_registry_cannot_name_a_token_server_in_clear() {
        let https = Url::parse("https://registry.test").unwrap();
        assert!(checked_realm(&https, "http://registry.test/token").is_err());
        assert!(checked_realm(&https, "https://auth.test/token").is_ok());
        assert!(checked_realm(&https, "file:///etc/passwd").is_err());
    }
}
