//! The fields of a lookup, from a query string or a JSON object.

use std::time::Duration;

use ipnetwork::IpNetwork;
use natnames::Who;
use serde_json::{Number, Value};

use super::error::Failure;
use crate::fields::Field;
use crate::mapping::Protocol;
use crate::question::{Question, StateFilter};

/// The longest `wait`.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The fields of a request.
const FIELDS: [&str; 15] = [
    "nat_ip",
    "nat_port",
    "protocol",
    "dst_ip",
    "dst_port",
    "src_ip",
    "src_port",
    "server_ip",
    "server_port",
    "host",
    "mac",
    "zone",
    "state",
    "wait",
    "fields",
];

/// The mappings to look up, how long the response may wait for a match, and what it has of the kernel's
/// entries.
#[derive(Debug, Default, PartialEq)]
pub(super) struct LookupRequest {
    pub(super) question: Question,
    pub(super) wait: Option<Duration>,
    pub(super) fields: Vec<Field>,
    /// Whose mappings are meant, if the request names a host or a device. With both, both are meant.
    pub(super) who: Vec<Who>,
}

impl LookupRequest {
    /// Reads `nat_ip=100.64.2.1&nat_port=40001`; without a field all mappings match.
    pub(super) fn from_query(query: Option<&str>) -> Result<Self, Failure> {
        let mut builder = QuestionBuilder::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            builder.set(&name, &value)?;
        }
        Ok(builder.request)
    }

    /// Like [`from_query`](Self::from_query), for a stream: it has no response that could wait, and the
    /// kernel is not queried for each of its mappings.
    pub(super) fn question_only(query: Option<&str>) -> Result<(Question, Vec<Who>), Failure> {
        let request = Self::from_query(query)?;
        let unsupported = match (request.wait, &request.fields[..]) {
            (None, []) => return Ok((request.question, request.who)),
            (Some(_), _) => "wait",
            (None, _) => "fields",
        };
        let error = format!("{unsupported} is not supported here");
        Err(Failure::bad(error, "leave it out, or use /v1/lookup"))
    }

    /// Reads `{"nat_ip": "100.64.2.1", "nat_port": 40001}`; numbers may be text, and `fields` may be a list.
    pub(super) fn from_json(value: &Value) -> Result<Self, Failure> {
        let Value::Object(fields) = value else {
            return Err(Failure::bad("a lookup must be a JSON object", r#"write {"nat_port": 40001}"#));
        };
        let mut builder = QuestionBuilder::default();
        for (name, value) in fields {
            match value {
                Value::String(text) => builder.set(name, text)?,
                Value::Number(number) if !matches!(&**name, "host" | "mac") => {
                    builder.set(name, &plain(number))?;
                }
                Value::Array(list) if name == "fields" => builder.set(name, &joined(list)?)?,
                _ => return Err(wrong(name, &value.to_string(), "text or a number")),
            }
        }
        Ok(builder.request)
    }
}

#[derive(Default)]
struct QuestionBuilder {
    request: LookupRequest,
    seen: Vec<&'static str>,
}

impl QuestionBuilder {
    fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let Some(known) = FIELDS.iter().find(|field| **field == name) else {
            return Err(unknown(name, &FIELDS));
        };
        if self.seen.contains(known) {
            return Err(Failure::bad(format!("{known} is given twice"), "give each field once"));
        }
        self.seen.push(known);
        let question = &mut self.request.question;
        match *known {
            "nat_ip" => question.nat_ip = Some(network(known, value)?),
            "dst_ip" => question.dst_ip = Some(network(known, value)?),
            "src_ip" => question.src_ip = Some(network(known, value)?),
            "server_ip" => question.server_ip = Some(network(known, value)?),
            "nat_port" => question.nat_port = Some(number(known, value)?),
            "dst_port" => question.dst_port = Some(number(known, value)?),
            "src_port" => question.src_port = Some(number(known, value)?),
            "server_port" => question.server_port = Some(number(known, value)?),
            "zone" => question.zone = Some(number(known, value)?),
            "protocol" => question.protocol = Some(protocol(known, value)?),
            "state" => {
                question.state = match value {
                    "live" => StateFilter::Live,
                    "closed" => StateFilter::Closed,
                    "any" => StateFilter::Any,
                    _ => return Err(wrong(known, value, "live, closed or any")),
                }
            }
            "fields" => self.request.fields = fields(value)?,
            "host" | "mac" => self.request.who.push(who(known, value)?),
            _ => {
                let longest = LONGEST_WAIT.as_millis() as u64;
                let wait = digits(value).filter(|wait| *wait <= longest);
                let wait = wait.ok_or_else(|| wrong(known, value, "milliseconds, 0 to 60000"))?;
                self.request.wait = Some(Duration::from_millis(wait));
            }
        }
        Ok(())
    }
}

/// Names of the kernel's fields, separated by commas.
fn fields(value: &str) -> Result<Vec<Field>, Failure> {
    let field = |name: &str| name.parse().map_err(|_| unknown_field(name));
    value.split(',').map(field).collect()
}

/// A JSON list of names as one text.
fn joined(list: &[Value]) -> Result<String, Failure> {
    let name = |value: &Value| match value {
        Value::String(name) if !name.contains(',') => Ok(name.clone()),
        other => Err(unknown_field(&other.to_string())),
    };
    Ok(list.iter().map(name).collect::<Result<Vec<_>, _>>()?.join(","))
}

fn unknown_field(found: &str) -> Failure {
    let known = Field::ALL.map(Field::as_str).join(", ");
    wrong("fields", found, &format!("any of {known}, separated by commas"))
}

/// Whose mappings are meant: `host` is a name or a subscriber, `mac` a MAC address.
pub(super) fn who(name: &str, value: &str) -> Result<Who, Failure> {
    match name {
        "mac" => {
            let expected = "a MAC address such as 00:16:3e:5a:01:2f";
            value.parse().map(Who::Mac).map_err(|_| wrong(name, value, expected))
        }
        _ if value.is_empty() => Err(wrong(name, value, "the name of a host, or a subscriber")),
        _ => Ok(Who::Name(value.trim().to_owned())),
    }
}

/// An address or a network. An IPv4-mapped IPv6 address counts as IPv4.
fn network(name: &str, value: &str) -> Result<IpNetwork, Failure> {
    let expected = "an IP address, or a network such as 192.168.7.0/24";
    if let Ok(address) = value.parse::<std::net::IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    value.parse().map_err(|_| wrong(name, value, expected))
}

/// The name of a protocol, or its number.
pub(super) fn protocol(name: &str, value: &str) -> Result<Protocol, Failure> {
    let expected = "tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre or a number up to 255";
    value.parse().map_err(|_| wrong(name, value, expected))
}

pub(super) fn number(name: &str, value: &str) -> Result<u16, Failure> {
    let number = digits(value).and_then(|number| u16::try_from(number).ok());
    number.ok_or_else(|| wrong(name, value, "a whole number from 0 to 65535"))
}

/// A JSON number as text. Some languages write the whole number 40001 as `40001.0`.
fn plain(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if float.fract() == 0.0 && (0.0..1e15).contains(&float) => (float as u64).to_string(),
        _ => number.to_string(),
    }
}

/// A number that consists of digits only, without a sign.
pub(super) fn digits(value: &str) -> Option<u64> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok()).flatten()
}

pub(super) fn wrong(name: &str, value: &str, expected: &str) -> Failure {
    let value: String = value.chars().filter(|character| !character.is_control()).take(64).collect();
    let name: String = name.chars().filter(|character| !character.is_control()).take(64).collect();
    Failure::bad(format!("{name}: found \"{value}\""), format!("expected {expected}"))
}

pub(super) fn unknown(name: &str, fields: &[&str]) -> Failure {
    let short: String = name.chars().filter(|character| !character.is_control()).take(64).collect();
    let nearest = fields.iter().map(|field| (strsim::damerau_levenshtein(field, &short), field)).min();
    let hint = match nearest {
        Some((distance, field)) if distance <= 3 && 2 * distance < short.len() => {
            format!("did you mean {field}?")
        }
        _ => format!("the fields are {}", fields.join(", ")),
    };
    Failure::bad(format!("unknown field \"{short}\""), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_strings_and_json_mean_the_same() {
        let query = "nat_ip=100.64.2.1&nat_port=40001&protocol=UDP&src_ip=192.168.7.0%2F24&zone=3&state=live&wait=250";
        let json = serde_json::json!({"nat_ip": "100.64.2.1", "nat_port": 40001, "protocol": "udp",
            "src_ip": "192.168.7.0/24", "zone": "3", "state": "live", "wait": 250});
        let request = LookupRequest::from_query(Some(query)).unwrap();
        assert_eq!(LookupRequest::from_json(&json).unwrap(), request);
        assert_eq!(request.question.nat_port, Some(40001));
        assert_eq!(request.wait, Some(Duration::from_millis(250)));
        assert_eq!(LookupRequest::from_query(None).unwrap(), LookupRequest::default());

        let floats: Value = serde_json::from_str(r#"{"nat_port": 40001.0, "wait": 2.5e2}"#).unwrap();
        let request = LookupRequest::from_json(&floats).unwrap();
        assert_eq!(
            (request.question.nat_port, request.wait),
            (Some(40001), Some(Duration::from_millis(250)))
        );
    }

    #[test]
    fn invalid_fields_are_refused_with_what_is_expected() {
        let error = |query| LookupRequest::from_query(Some(query)).unwrap_err();
        for query in [
            "nat_port=65536",
            "nat_port=-1",
            "nat_port=",
            "nat_port=+1",
            "nat_port=1&nat_port=1",
            "nat_ip=10.0.0",
            "nat_ip=10.0.0.0/33",
            "protocol=256",
            "zone=x",
            "state=dead",
            "wait=60001",
            "wait=1s",
            "=1",
        ] {
            assert_eq!(error(query).status, hyper::StatusCode::BAD_REQUEST, "{query}");
        }
        assert_eq!(error("natport=1").hint, "did you mean nat_port?");
        for json in [
            "[]",
            "null",
            r#"{"host": 0}"#,
            r#"{"nat_port": 1.5}"#,
            r#"{"nat_port": true}"#,
            r#"{"nat_port": -1}"#,
        ] {
            assert!(LookupRequest::from_json(&serde_json::from_str(json).unwrap()).is_err(), "{json}");
        }
    }
}
