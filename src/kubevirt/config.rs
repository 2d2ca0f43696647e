//! Where the cluster is and who asks: kubeconfig, the pod that this runs in, and the proxy in between.

use std::{env, path::Path};

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::ClusterOptions;
use crate::error::{Error, Result};

/// The configuration that the options, the environment or the pod name.
pub(super) async fn load(options: &ClusterOptions) -> Result<Config> {
    let wanted = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    let path = options.kubeconfig.clone();
    let read = tokio::task::spawn_blocking(move || match path {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    });
    let read =
        read.await.map_err(|error| Error::failed("reading the kubeconfig panicked").with_source(error))?;
    let wrong = |error| wrong_kubeconfig(options.kubeconfig.as_deref(), error);
    let loaded = match read {
        Ok(kubeconfig) => {
            let proxy = proxy_of(&kubeconfig, options.context.as_deref());
            Config::from_custom_kubeconfig(kubeconfig, &wanted).await.map(|config| (config, proxy))
        }
        Err(error) => Err(error),
    };
    match loaded {
        Ok((mut config, proxy)) => {
            config.proxy_url = match proxy {
                Some(_) => proxy,
                None => proxy_of_environment(&config.cluster_url),
            };
            Ok(config)
        }
        Err(error) if options.kubeconfig.is_none() && options.context.is_none() && in_cluster() => {
            Config::incluster().map_err(|cause| {
                tracing::debug!(%cause, "no kubeconfig either");
                wrong(error).with_source(cause)
            })
        }
        Err(error) => Err(wrong(error)),
    }
}

/// The proxy that the kubeconfig names for the cluster of a context. It counts whatever `NO_PROXY` says, as
/// for kubectl.
fn proxy_of(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<Uri> {
    let context = context.or(kubeconfig.current_context.as_deref())?;
    let named = kubeconfig.contexts.iter().find(|named| named.name == context)?;
    let cluster = &named.context.as_ref()?.cluster;
    let named = kubeconfig.clusters.iter().find(|named| named.name == *cluster)?;
    uri_of(named.cluster.as_ref()?.proxy_url.as_deref()?)
}

/// The proxy that the environment names for this server, as for kubectl and the data path: none for servers on
/// this machine, and those that `NO_PROXY` holds. The client would look for its proxy in `NO_PROXY`, not for
/// the server.
fn proxy_of_environment(server: &Uri) -> Option<Uri> {
    let first = |names: [&str; 2]| {
        names.into_iter().find_map(|name| env::var(name).ok().filter(|value| !value.trim().is_empty()))
    };
    let proxy = first(["HTTPS_PROXY", "https_proxy"])?;
    let except = first(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    uri_of(&proxy).filter(|proxy| is_proxied(server, proxy, &except))
}

fn is_proxied(server: &Uri, proxy: &Uri, except: &str) -> bool {
    let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_here =
        host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    !is_here && Matcher::builder().https(proxy.to_string()).no(except).build().intercept(server).is_some()
}

/// What is named without a scheme is an HTTP proxy.
fn uri_of(proxy: &str) -> Option<Uri> {
    let proxy = proxy.trim();
    let whole = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
    whole.parse().ok()
}

/// Whether this process runs in a pod of the cluster.
pub(super) fn in_cluster() -> bool {
    env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(ACCOUNT_TOKEN).exists()
}

fn wrong_kubeconfig(path: Option<&Path>, error: KubeconfigError) -> Error {
    let name =
        path.map_or_else(|| "the kubeconfig".to_owned(), |path| format!("the kubeconfig {}", path.display()));
    let wrong = Error::usage(format!("{name} cannot be used")).with_hint(
        "name one with --kubeconfig or KUBECONFIG, and a context in it with --context; 'kubectl config get-contexts' lists them",
    );
    match error {
        KubeconfigError::ParseNoProxy(_) => Error::usage("the variable NO_PROXY is no list of names and addresses")
            .with_hint("it holds names, addresses and networks with commas in between, and nothing empty: 'localhost,10.0.0.0/8,.svc'")
            .with_source(error),
        KubeconfigError::ParseProxyUrl(_) => Error::usage("the address of the proxy is no URL").with_hint(
            "it is proxy-url in the kubeconfig, or the variable HTTPS_PROXY: http://HOST:PORT",
        ),
        // What the parser says quotes lines, and lines hold keys and tokens.
        KubeconfigError::Parse(_) => Error::usage(format!("{name} is no YAML of that kind"))
            .with_hint("'kubectl config view' tells what is wrong with it"),
        error => wrong.with_source(error),
    }
}

/// Where a pod finds who it is.
const ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_is_about_the_server() {
        let proxy = uri_of("10.9.9.9:3128").unwrap();
        assert_eq!(proxy.to_string(), "http://10.9.9.9:3128/");
        for (server, except, expected) in [
            ("https://api.example:6443", "", true),
            ("https://api.example:6443", "example", false),
            ("https://api.example:6443", "localhost,.example", false),
            ("https://api.example:6443", "10.9.9.9,10.0.0.0/8", true),
            ("https://10.0.0.1:6443", "localhost, 10.0.0.0/8", false),
            ("https://10.0.0.1:6443", "192.168.0.0/16,", true),
            ("https://api.example", "*", false),
            ("https://127.0.0.1:6443", "", false),
            ("https://localhost:6443", "", false),
            ("https://[::1]:6443", "", false),
        ] {
            assert_eq!(is_proxied(&server.parse().unwrap(), &proxy, except), expected, "{server} {except:?}");
        }
    }

    #[test]
    fn the_proxy_of_the_context_counts() {
        let text = "{clusters: [{name: a, cluster: {server: 'https://a', proxy-url: 'http://p:1'}}, {name: b, cluster: \
                    {server: 'https://b'}}], contexts: [{name: x, context: {cluster: a, user: u}}, {name: y, context: \
                    {cluster: b, user: u}}], current-context: x, users: []}";
        let kubeconfig = Kubeconfig::from_yaml(text).unwrap();
        let proxy = |context| proxy_of(&kubeconfig, context).map(|proxy| proxy.to_string());
        assert_eq!(proxy(None).as_deref(), Some("http://p:1/"));
        assert_eq!(proxy(Some("y")), None);
        assert_eq!(proxy(Some("z")), None);
    }
}
