//! The tables `products`, `product_skus` and `sku_images` as the catalogue reads them.

use micro_core::{Error, ErrorKind, Result, Tx};
use micro_tx::{Row, SqlTxExt};

use super::{
    pieces::{list, pieces},
    values,
};
use crate::domain::{Catalogue, Money, NewProduct, SkuDetail, SkuImage, SkuLevel};

const LEVEL: &str = "s.id, s.sku_no, s.sku_name, s.stock, s.stock_warn, s.status";

/// The catalogue of the database that opened the transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqlCatalogue;

impl Catalogue for SqlCatalogue {
    async fn add(&self, tx: &mut Tx, product: &NewProduct) -> Result<i64> {
        let sql = tx.sql()?;
        let insert = "INSERT INTO products (product_no, product_name, category_id, description) VALUES (?, ?, ?, ?)";
        let values = [
            (&product.number).into(),
            (&product.name).into(),
            product.category_id.into(),
            (&product.description).into(),
        ];
        sql.execute(insert, &values).await.map_err(|error| taken(error, product))?;
        let select = "SELECT id FROM products WHERE product_no = ?";
        let row = sql.fetch_optional(select, &[(&product.number).into()]).await?;
        let id: i64 =
            row.ok_or_else(|| Error::new(ErrorKind::Internal, "product.add", "the new row is gone"))?.get(0)?;
        let insert = "INSERT INTO product_skus (product_id, sku_no, sku_name, price) VALUES (?, ?, ?, ?)";
        let values = [id.into(), (&product.number).into(), (&product.name).into(), product.price.to_string().into()];
        sql.execute(insert, &values).await.map_err(|error| taken(error, product))?;
        Ok(id)
    }

    async fn find_detail(&self, tx: &mut Tx, sku_id: i64) -> Result<Option<SkuDetail>> {
        let statement = format!(
            "SELECT {LEVEL}, s.product_id, s.spec_value_ids, s.spec_value_text, s.price, s.market_price, s.sales, \
             s.main_image, s.created_at, s.updated_at, p.product_no, p.product_name, \
             p.main_image AS product_main_image, p.description AS product_description \
             FROM product_skus s JOIN products p ON p.id = s.product_id \
             WHERE s.id = ? AND s.deleted_at IS NULL"
        );
        let sql = tx.sql()?;
        let Some(row) = sql.fetch_optional(&statement, &[sku_id.into()]).await? else { return Ok(None) };
        let images = "SELECT id, image_url, is_main, display_order FROM sku_images \
                      WHERE sku_id = ? AND is_deleted = 0 ORDER BY display_order, id";
        let images = sql.fetch_all(images, &[sku_id.into()]).await?;
        detail(&row, &images).map(Some)
    }

    async fn levels(&self, tx: &mut Tx, sku_ids: &[i64]) -> Result<Vec<SkuLevel>> {
        let sql = tx.sql()?;
        let mut levels = Vec::with_capacity(sku_ids.len());
        for piece in pieces(sku_ids) {
            let statement = format!(
                "SELECT {LEVEL} FROM product_skus s WHERE s.id IN ({}) AND s.status = 1 AND s.deleted_at IS NULL",
                list("?", piece.len())
            );
            for row in sql.fetch_all(&statement, &values(piece)).await? {
                levels.push(level(&row)?);
            }
        }
        levels.sort_by_key(|level| level.sku_id);
        Ok(levels)
    }

    async fn level_of(&self, tx: &mut Tx, sku_no: &str) -> Result<Option<SkuLevel>> {
        let statement = format!("SELECT {LEVEL} FROM product_skus s WHERE s.sku_no = ? AND s.deleted_at IS NULL");
        tx.sql()?.fetch_optional(&statement, &[sku_no.into()]).await?.as_ref().map(level).transpose()
    }
}

fn level(row: &Row) -> Result<SkuLevel> {
    Ok(SkuLevel {
        sku_id: row.get("id")?,
        sku_no: row.get("sku_no")?,
        name: row.get("sku_name")?,
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
        spec_value_text: row.get("spec_value_text")?,
        price: row.get::<String>("price")?.parse()?,
        market_price: match row.get::<Option<String>>("market_price")? {
            Some(price) => price.parse()?,
            None => Money::default(),
        },
        sales: row.get("sales")?,
        main_image: text(row, "main_image")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
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

fn text(row: &Row, column: &'static str) -> Result<String> {
    Ok(row.get::<Option<String>>(column)?.unwrap_or_default())
}

fn taken(error: Error, product: &NewProduct) -> Error {
    if error.kind() != ErrorKind::AlreadyExists {
        return error;
    }
    Error::new(ErrorKind::AlreadyExists, "product.add", "a product or sku has this number already")
        .with_context("product_sku", &product.number)
        .with_source(error)
}
