//! Have an image's chunks in the site's cache.

use std::{sync::Arc, time::Duration};

use slipway_protocol::{ids::ImageId, image::Manifest, report::Failure};

use super::{Teller, failure};
use crate::{context::Context, images::ImageError};

pub(super) async fn run(context: &Arc<Context>, image: ImageId, teller: &Teller) -> Result<(), Failure> {
    let manifest = manifest(context, image).await?;
    manifest.check().map_err(|e| failure("bad_manifest", e, false))?;
    let (sender, mut receiver) = tokio::sync::watch::channel(None);
    let ensure = async {
        let progress = move |p| {
            sender.send_replace(Some(p));
        };
        context.images.ensure(&manifest, progress).await
    };
    let tell = async {
        while receiver.changed().await.is_ok() {
            let progress = *receiver.borrow_and_update();
            teller.progress(progress).await;
        }
    };
    let (result, ()) = tokio::join!(ensure, tell);
    result.map_err(|e: ImageError| failure(e.code(), &e, e.is_transient()))
}

/// The image's manifest, as soon as the control plane's notice is here. The wait is bounded by the step's time limit.
async fn manifest(context: &Context, image: ImageId) -> Result<Manifest, Failure> {
    loop {
        match context.image(image) {
            Ok(Some((_, manifest))) => return Ok(manifest),
            Ok(None) => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(e) => return Err(failure("store", e, true)),
        }
    }
}
