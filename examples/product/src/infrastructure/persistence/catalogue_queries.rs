//! The tables `products`, `product_skus` and `sku_images`, to ask.

use micro_core::Result;
use micro_tx::Row;

use super::{
    SqlQueries,
    columns::{decimal, moment, text},
    pieces::{filled, list},
    values,
};
use crate::domain::{CatalogueQueries, Money, SkuDetail, SkuImage, SkuLevel};

const LEVEL: &str = "s.id, s.sku_no, s.sku_name, s.spec_value_text, s.stock, s.stock_warn, s.status";

impl CatalogueQueries for SqlQueries {
    async fn find_detail(&self, sku_id: i64) -> Result<Option<SkuDetail>> {
        let statement = format!(
            "SELECT {LEVEL}, s.product_id, s.spec_value_ids, {} AS price, {} AS market_price, s.sales, s.main_image, \
             {} AS created_at, {} AS updated_at, p.product_no, p.product_name, \
             p.main_image AS product_main_image, p.description AS product_description \
             FROM product_skus s JOIN products p ON p.id = s.product_id \
             WHERE s.id = ? AND s.deleted_at IS NULL",
            decimal("s.price"),
            decimal("s.market_price"),
            moment("s.created_at"),
            moment("s.updated_at"),
        );
        let Some(row) = self.database.fetch_optional(&statement, &[sku_id.into()]).await? else { return Ok(None) };
        let images = "SELECT id, image_url, is_main, display_order FROM sku_images \
                      WHERE sku_id = ? AND is_deleted = 0 ORDER BY display_order, id";
        let images = self.database.fetch_all(images, &[sku_id.into()]).await?;
        detail(&row, &images).map(Some)
    }

    async fn levels(&self, sku_ids: &[i64]) -> Result<Vec<SkuLevel>> {
        let mut levels = Vec::with_capacity(sku_ids.len());
        for piece in filled(sku_ids) {
            let statement = format!(
                "SELECT {LEVEL} FROM product_skus s WHERE s.id IN ({}) AND s.status = 1 AND s.deleted_at IS NULL",
                list("?", piece.len())
            );
            for row in self.database.fetch_all(&statement, &values(&piece)).await? {
                levels.push(level(&row)?);
            }
        }
        levels.sort_by_key(|level| level.sku_id);
        levels.dedup_by_key(|level| level.sku_id);
        Ok(levels)
    }

    async fn level_of(&self, sku_no: &str) -> Result<Option<SkuLevel>> {
        let statement = format!("SELECT {LEVEL} FROM product_skus s WHERE s.sku_no = ? AND s.deleted_at IS NULL");
        self.database.fetch_optional(&statement, &[sku_no.into()]).await?.as_ref().map(level).transpose()
    }
}

fn level(row: &Row) -> Result<SkuLevel> {
    Ok(SkuLevel {
        sku_id: row.get("id")?,
        sku_no: row.get("sku_no")?,
        name: row.get("sku_name")?,
        spec_value_text: row.get("spec_value_text")?,
        stock: row.get("stock")?,
        stock_warn: row.get("stock_warn")?,
        status: row.get("status")?,
    })
}

fn detail(row: &Row, images: &[Row]) -> Result<SkuDetail> {
    Ok(SkuDetail {
        level: level(row)?,
        product_id: row.get("product_id")?,
        spec_value_ids: row.get("spec_value_ids")?,
        price: row.get::<String>("price")?.parse()?,
        market_price: match text(row, "market_price")?.as_str() {
            "" => Money::default(),
            price => price.parse()?,
        },
        sales: row.get("sales")?,
        main_image: text(row, "main_image")?,
        created_at: text(row, "created_at")?,
        updated_at: text(row, "updated_at")?,
        product_no: row.get("product_no")?,
        product_name: row.get("product_name")?,
        product_main_image: text(row, "product_main_image")?,
        product_description: text(row, "product_description")?,
        images: images.iter().map(image).collect::<Result<_>>()?,
    })
}

fn image(row: &Row) -> Result<SkuImage> {
    Ok(SkuImage {
        id: row.get("id")?,
        url: row.get("image_url")?,
        is_main: row.get("is_main")?,
        display_order: row.get("display_order")?,
    })
}
