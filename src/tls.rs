//! TLS has one provider, ring.

/// Makes ring the provider of this process, unless the program that uses this library has chosen
/// one already. Call it before a TLS client is built: without a provider reqwest panics.
pub(crate) fn install() {
    // An error says that a provider is installed, which is all that is asked for.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
}
