//! A proxy that opens tunnels (CONNECT), and knows names that nothing else does: as one in a cluster's network
//! knows its services.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What a tunnel's target, `host:port`, is.
type Names = Box<dyn Fn(&str) -> Option<SocketAddr> + Send + Sync>;

/// A proxy; it lives as long as the test.
pub(super) struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// A proxy that leads to what `names` knows, and nowhere else.
    pub(super) fn start(names: impl Fn(&str) -> Option<SocketAddr> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (names, seen): (Arc<Names>, _) = (Arc::new(Box::new(names)), Arc::clone(&asked));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (names, seen) = (Arc::clone(&names), Arc::clone(&seen));
                // A connection that breaks is for those at its ends to report.
                thread::spawn(move || drop(tunnel(client, &names, &seen)));
            }
        });
        Self { address, asked }
    }

    /// `http://127.0.0.1:PORT`.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether a tunnel to this was asked for.
    pub(super) fn was_asked_for(&self, target: &str) -> bool {
        self.asked.lock().expect("no panic").iter().any(|asked| asked == target)
    }
}

fn tunnel(mut client: TcpStream, names: &Names, seen: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    // The client says nothing more before it is answered, so that nothing is left in the reader.
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
    seen.lock().expect("no panic").push(target.clone());
    let Some(address) = Some(method).filter(|&method| method == "CONNECT").and_then(|_| names(&target))
    else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n");
    };
    let server = TcpStream::connect(address)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let up = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || copy(up.0, up.1));
    copy(server, client);
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
