//! The API's document as it is kept in the project: whoever changes the API sees in the review what callers will see.

use std::path::Path;

use crate::common::server::server;

#[tokio::test(flavor = "multi_thread")]
async fn the_kept_document_is_the_apis_own() {
    let served = server().await.get("/api/openapi.json").await;
    let served = serde_json::to_string_pretty(&served).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    if std::env::var_os("SLIPWAY_RENEW_OPENAPI").is_some() {
        std::fs::write(&path, &served).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = kept
        .lines()
        .zip(served.lines())
        .enumerate()
        .find(|(_, (kept, served))| kept != served);
    let first = differs.map(|(n, (kept, served))| format!("line {}: `{kept}` is `{served}` now", n + 1));
    assert!(
        kept == served,
        "the API is not what docs/openapi.json says ({}); if that is meant, run `make openapi` and commit the file",
        first.unwrap_or_else(|| "one is longer".to_owned())
    );
}
