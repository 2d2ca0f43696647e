//! A picture of a guest's screen.

use futures_util::AsyncReadExt as _;
use http::{Method, Request};
use tokio::time::timeout;

use super::Vms;
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{
        client::Call,
        explain::{failure, no_answer, strange, told},
        resource::encoded,
    },
};

impl Vms {
    /// The screen of a VM that runs, as a PNG file.
    ///
    /// # Errors
    /// There is no such VM, it does not run, or has no screen; the cluster refuses, or cannot be reached; the
    /// answer is no picture.
    pub async fn screenshot(&self, name: &str) -> Result<Vec<u8>> {
        self.find(name).await?;
        let runs = self.instance(name).await?.is_some_and(|instance| instance.status.phase == "Running");
        let vm = self.called(name);
        let unfit =
            |why: &str| Error::new(ErrorKind::Cluster, format!("VM {vm} has no screen to be seen: {why}"));
        if !runs {
            return Err(unfit("it is not running").with_hint("'vmferry vm start' starts it"));
        }
        let what = format!("virtualmachineinstances/vnc/screenshot of {vm}");
        let call = Call {
            verb: "get",
            // Rights end at the first part of a path below an object: the API server and virt-api ask for this one.
            resource: "virtualmachineinstances.subresources.kubevirt.io/vnc",
            what: &what,
            namespace: Some(self.cluster.namespace()),
        };
        let path = format!(
            "{}/virtualmachineinstances/{}/vnc/screenshot?moveCursor=false",
            self.cluster.subresources(),
            encoded(name)
        );
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .body(Vec::new())
            .map_err(|error| Error::failed(format!("cannot ask for {what}")).with_source(error))?;
        let client = self.cluster.client();
        let read = async {
            let mut picture = Vec::new();
            let answer = client.request_stream(request).await?;
            let mut answer = std::pin::pin!(answer.take(MOST_BYTES));
            answer.read_to_end(&mut picture).await.map_err(|error| kube::Error::Service(error.into()))?;
            Ok::<_, kube::Error>(picture)
        };
        let picture = match timeout(self.cluster.timeout(), read).await {
            Ok(Ok(picture)) => picture,
            Ok(Err(error)) => {
                let error = Error::from(failure(self.cluster.url(), &call, error));
                // Whatever the cause, it is an internal error with a text.
                return Err(match told(&error) {
                    text if text.contains("graphics") => {
                        unfit("it has no graphics device").with_source(Error::failed(text))
                    }
                    _ => error,
                });
            }
            Err(_) => return Err(no_answer(self.cluster.url(), &call, self.cluster.timeout()).into()),
        };
        if !picture.starts_with(MAGIC) {
            return Err(strange(self.cluster.url(), &what, "no PNG picture"));
        }
        Ok(picture)
    }
}

/// How a PNG file begins.
const MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A screen of 8K, badly compressed.
const MOST_BYTES: u64 = 128 << 20;
