//! Requests the metrics from the daemon and reads them.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{CheckError, ServiceState};

/// In bytes; more than the daemon ever sends.
const MAX_RESPONSE: u64 = 16 << 20;

/// Samples in the text format of Prometheus.
pub(crate) struct Metrics(String);

impl Metrics {
    /// Requests the metrics; blocks until the response is complete.
    pub(crate) fn request(host: &str, port: u16) -> Result<Self, CheckError> {
        let critical = |text: String| CheckError { state: ServiceState::Critical, text };
        let mut stream = TcpStream::connect((host, port))
            .map_err(|error| critical(format!("cannot connect to {host} port {port}: {error}")))?;
        let broken = |error| critical(format!("the connection to {host} port {port} failed: {error}"));
        let name = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        // An HTTP/1.0 response has no chunks and ends with the connection.
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {name}:{port}\r\nAccept: text/plain\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(broken)?;
        let mut response = Vec::new();
        stream.take(MAX_RESPONSE).read_to_end(&mut response).map_err(broken)?;
        Self::read(&response)
    }

    fn read(response: &[u8]) -> Result<Self, CheckError> {
        let critical = |text: &str| CheckError { state: ServiceState::Critical, text: text.to_owned() };
        let unknown = |text: &str| CheckError { state: ServiceState::Unknown, text: text.to_owned() };
        let response = String::from_utf8_lossy(response);
        let status = response.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
        let (Some(status), Some((head, body))) = (status, response.split_once("\r\n\r\n")) else {
            return Err(critical("the service on this port does not speak HTTP"));
        };
        match status {
            200 => {}
            403 => {
                return Err(unknown("this host is not allowed: add it to ip_acl in [http_server]"));
            }
            404 => return Err(unknown("no /metrics here: is this pynatconnd, version 1.0 or newer?")),
            status => return Err(critical(&format!("the daemon responds with HTTP status {status}"))),
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        if length.is_some_and(|length| length > body.len()) {
            return Err(critical("the response is not complete"));
        }
        let metrics = Self(body.to_owned());
        match metrics.value("pynatconnd_table_complete") {
            Some(_) => Ok(metrics),
            None => Err(unknown("these are not the metrics of pynatconnd")),
        }
    }

    /// The value of a metric without labels.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.samples(name).find(|(labels, _)| labels.is_empty()).map(|(_, value)| value)
    }

    /// Labels (the text between the braces) and value of each sample of a metric.
    pub(crate) fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (series, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let labels = match series {
                "" => "",
                _ => series.strip_prefix('{')?.strip_suffix('}')?,
            };
            Some((labels, value.parse().ok()?))
        })
    }
}

/// The value of a label.
pub(crate) fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let found = labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\""));
    found.and_then(|value| value.strip_suffix('"')).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(response: &str) -> Result<Metrics, (ServiceState, String)> {
        Metrics::read(response.as_bytes()).map_err(|trouble| (trouble.state, trouble.text))
    }

    #[test]
    fn samples_are_read() {
        let metrics = read(
            "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n# HELP x y.\npynatconnd_table_complete 1\n\
             pynatconnd_ports_in_use{address=\"2001:db8::2\",protocol=\"tcp\"} 3\n\
             pynatconnd_ports_in_use_else 9\n",
        );
        let metrics = metrics.unwrap_or_else(|trouble| panic!("{trouble:?}"));
        assert_eq!(metrics.value("pynatconnd_table_complete"), Some(1.0));
        let ports: Vec<_> = metrics.samples("pynatconnd_ports_in_use").collect();
        assert_eq!(ports, [("address=\"2001:db8::2\",protocol=\"tcp\"", 3.0)]);
        assert_eq!((label(ports[0].0, "address"), label(ports[0].0, "protocol")), ("2001:db8::2", "tcp"));
        assert_eq!(label(ports[0].0, "zone"), "?");
    }

    #[test]
    fn every_unusable_response_has_its_status() {
        for (response, state) in [
            ("", ServiceState::Critical),
            ("SSH-2.0-OpenSSH\r\n", ServiceState::Critical),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 99\r\n\r\npynatconnd_table_complete 1\n",
                ServiceState::Critical,
            ),
            ("HTTP/1.0 200 OK\r\n\r\nnode_load1 1\n", ServiceState::Unknown),
            ("HTTP/1.0 403 Forbidden\r\n\r\n", ServiceState::Unknown),
            ("HTTP/1.1 404 Not Found\r\n\r\n", ServiceState::Unknown),
            ("HTTP/1.0 500 Internal Server Error\r\n\r\n", ServiceState::Critical),
        ] {
            assert_eq!(read(response).err().map(|(state, _)| state), Some(state), "{response}");
        }
    }
}
