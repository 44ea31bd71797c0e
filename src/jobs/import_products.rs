use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, JobResult, org_failure};
use crate::{
    app::App,
    queue::{EnqueueBy, Failure, Job},
    services::{
        permissions::Permission,
        product_import::{ImportedProduct, import},
    },
};

/// Maximum number of products that one transaction imports.
const BATCH_ROWS: usize = 100;

/// Imports products into an organization. An example of a job that changes the data of an organization.
#[derive(Serialize, Deserialize)]
pub struct ImportProducts {
    pub products: Vec<ImportedProduct>,
}

impl Job for ImportProducts {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "import_products";
    const ENQUEUE_BY: EnqueueBy = EnqueueBy::User { max_bytes: 512 * 1024 };

    async fn run(self, ctx: Context) -> JobResult {
        let access = ctx.org(Permission::ProductWrite).await?;
        let (request, total) = (ctx.request(), self.products.len());
        let mut done = 0;
        for batch in self.products.chunks(BATCH_ROWS) {
            if ctx.is_stopped() {
                return Err(Failure::new("Stopped"));
            }
            import(&ctx.state, &request, &access, batch).await.map_err(org_failure)?;
            done += batch.len();
            ctx.progress((done * 100 / total) as u8, format!("{done} of {total} products"));
        }
        Ok(json!({ "products": total }))
    }
}
