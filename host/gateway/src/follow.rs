//! `[reload] streams = "watch"`: stream files take effect as soon as they are
//! changed, as `sluicegate apply` takes them over.

use std::sync::Arc;

use tracing::error;
use watch::Watch;

use super::gateway::Gateway;
use super::streams::ChangeError;

/// Follows the stream files, for ever.
///
/// Key lists of their own are followed if they are in the folder, too; a list
/// elsewhere is read at the next apply.
pub async fn run(gateway: Arc<Gateway>, watch: Watch) {
    let mut changes = watch.paths(vec![gateway.streams.folder()]);
    changes.ready().await;
    loop {
        // At once, too: they may have changed since they were read.
        if let Err(wrong) = gateway.take_over().await {
            let reason = reason(&wrong);
            error!(reason, "stream files not applied; the running configuration is kept");
        }
        changes.next().await;
    }
}

/// On one line.
fn reason(wrong: &ChangeError) -> String {
    match wrong {
        ChangeError::Config(errors) => {
            let summaries: Vec<String> = errors.0.iter().map(|error| error.summary()).collect();
            summaries.join("; ")
        }
        other => other.to_string(),
    }
}
