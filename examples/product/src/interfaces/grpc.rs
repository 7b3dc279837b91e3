//! The gRPC service `Product`: requests to use cases, answers and errors back.

use micro_core::{Error, ErrorKind, Result, branch::BranchError};
use micro_grpc::{BranchCall, to_status};
use tonic::{Request, Response, Status};

use super::deductions::DeductionCalls;
use crate::{
    application::{AddProduct, ApplyForRestock, CountSales, FindRestock, FindSkus, FindSuppliers},
    domain::{
        Catalogue, CatalogueQueries, Ledger, Money, NewProduct, Restock, RestockAudit, RestockQueries, RestockWish,
        Restocks, SalesQueries, SkuDetail, SkuLevel, Span, Stocks, Supply, SupplyQueries,
    },
    wire::service::{
        self, CheckSkuInventoryThresholdRequest, CheckSkuInventoryThresholdResponse, CreateRestockApplyRequest,
        CreateRestockApplyResponse, GetProductSkuDetailRequest, GetProductSkuDetailResponse,
        GetRestockApplyInfoRequest, GetRestockApplyInfoResponse, GetSkuDailySalesRequest, GetSkuDailySalesResponse,
        GetSkuSalesVolumeRequest, GetSkuSalesVolumeResponse, GetSkuStockBySkuNoRequest, GetSkuStockBySkuNoResponse,
        GetSupplierInfoRequest, GetSupplierInfoResponse, OrderDetailReq, OrderProductResp, ProductBasicInfo,
        ProductInfo, ResponseProduct, RestockRecord, RestockSkuInfo, SkuDailySales, SkuImageInfo,
        SkuInventoryThreshold, SupplierProduct, product_server::Product as ProductService,
    },
};

/// Answers the calls of the product service, each by its use case.
pub struct ProductGrpc<C, R, Q, S: Stocks, L: Ledger> {
    /// `AddProduct`.
    pub add_product: AddProduct<C>,
    /// `GetProductSkuDetail`, `CheckSkuInventoryThreshold`, `GetSkuStockBySkuNo`.
    pub find_skus: FindSkus<Q>,
    /// `CreateRestockApply`.
    pub apply_for_restock: ApplyForRestock<Q, R>,
    /// `GetRestockApplyInfo`.
    pub find_restock: FindRestock<Q>,
    /// `GetSkuSalesVolume`, `GetSkuDailySales`.
    pub count_sales: CountSales<Q>,
    /// `GetSupplierInfo`.
    pub find_suppliers: FindSuppliers<Q>,
    /// `DeductInvetory`, `DeductInvetoryRevert`.
    pub deductions: DeductionCalls<S, L>,
}

/// What the calls ask for without changing it.
pub trait Queries: CatalogueQueries + RestockQueries + SalesQueries + SupplyQueries {}

impl<Q: CatalogueQueries + RestockQueries + SalesQueries + SupplyQueries> Queries for Q {}

impl<C: Catalogue, R: Restocks, Q: Queries, S: Stocks, L: Ledger> ProductGrpc<C, R, Q, S, L> {
    async fn add(&self, request: ProductInfo) -> Result<ResponseProduct> {
        let product = NewProduct {
            price: price(request.product_price)?,
            number: request.product_sku,
            name: request.product_name,
            description: request.product_description,
            category_id: request.product_category_id,
        };
        Ok(ResponseProduct { product_id: self.add_product.add(product).await? })
    }

    async fn restock(&self, request: CreateRestockApplyRequest) -> Result<CreateRestockApplyResponse> {
        let CreateRestockApplyRequest { sku_id: sku_no, user_id, quantity, reason } = request;
        let wish = RestockWish { user_id, quantity, reason };
        let (restock, sku) = self.apply_for_restock.apply(&sku_no, wish).await?;
        Ok(CreateRestockApplyResponse {
            restock_record: Some(restock_record(restock)),
            sku_info: Some(RestockSkuInfo {
                id: sku.sku_id,
                sku_no: sku.sku_no,
                sku_name: sku.name,
                spec_value_text: sku.spec_value_text,
            }),
        })
    }

    async fn restock_info(&self, request: GetRestockApplyInfoRequest) -> Result<GetRestockApplyInfoResponse> {
        let (restock, audit) = self.find_restock.find(&request.application_no, request.user_id).await?;
        Ok(GetRestockApplyInfoResponse {
            id: restock.id,
            sku_id: restock.sku_id,
            quantity: restock.wish.quantity,
            reason: restock.wish.reason,
            status: restock.status,
            application_no: restock.application_no,
            audit: audit.map(restock_audit),
        })
    }

    async fn sales_volume(&self, request: GetSkuSalesVolumeRequest) -> Result<GetSkuSalesVolumeResponse> {
        let span = Span::parse(&request.start_time, &request.end_time)?;
        let sales = self.count_sales.volume(&request.sku_code, &span).await?;
        Ok(GetSkuSalesVolumeResponse {
            sku_code: request.sku_code,
            sales_volume: sales.total,
            daily_avg_sales: sales.daily_average,
        })
    }

    async fn daily_sales(&self, request: GetSkuDailySalesRequest) -> Result<GetSkuDailySalesResponse> {
        let span = Span::parse(&request.start_date, &request.end_date)?;
        let sales = self.count_sales.by_day(&request.sku_code, &span).await?;
        let daily_sales = sales.into_iter().map(|sales| SkuDailySales {
            sku_code: request.sku_code.clone(),
            sales_volume: sales.volume,
            date: sales.date,
        });
        Ok(GetSkuDailySalesResponse { daily_sales: daily_sales.collect() })
    }

    async fn suppliers(&self, request: GetSupplierInfoRequest) -> Result<GetSupplierInfoResponse> {
        let supplies = self.find_suppliers.of_sku(&request.sku_code).await?;
        let suppliers = supplies.into_iter().map(|supply| supplier_product(&request.sku_code, supply));
        Ok(GetSupplierInfoResponse { suppliers: suppliers.collect() })
    }
}

#[tonic::async_trait]
impl<C: Catalogue, R: Restocks, Q: Queries, S: Stocks, L: Ledger> ProductService for ProductGrpc<C, R, Q, S, L> {
    async fn add_product(&self, request: Request<ProductInfo>) -> Result<Response<ResponseProduct>, Status> {
        self.add(request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn get_product_sku_detail(
        &self,
        request: Request<GetProductSkuDetailRequest>,
    ) -> Result<Response<GetProductSkuDetailResponse>, Status> {
        let found = self.find_skus.detail(request.into_inner().sku_id).await.map_err(to_status)?;
        Ok(Response::new(sku_detail(found)))
    }

    async fn check_sku_inventory_threshold(
        &self,
        request: Request<CheckSkuInventoryThresholdRequest>,
    ) -> Result<Response<CheckSkuInventoryThresholdResponse>, Status> {
        let CheckSkuInventoryThresholdRequest { sku_ids, threshold } = request.into_inner();
        let levels = self.find_skus.levels(&sku_ids).await.map_err(to_status)?;
        let results = levels.into_iter().map(|level| sku_threshold(level, threshold)).collect();
        Ok(Response::new(CheckSkuInventoryThresholdResponse { results }))
    }

    async fn get_sku_stock_by_sku_no(
        &self,
        request: Request<GetSkuStockBySkuNoRequest>,
    ) -> Result<Response<GetSkuStockBySkuNoResponse>, Status> {
        let level = self.find_skus.level_of(&request.into_inner().sku_code).await.map_err(to_status)?;
        Ok(Response::new(GetSkuStockBySkuNoResponse {
            sku_code: level.sku_no,
            name: level.name,
            stock: level.stock,
            status: level.status,
            stock_warn: level.stock_warn,
        }))
    }

    async fn create_restock_apply(
        &self,
        request: Request<CreateRestockApplyRequest>,
    ) -> Result<Response<CreateRestockApplyResponse>, Status> {
        self.restock(request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn get_sku_sales_volume(
        &self,
        request: Request<GetSkuSalesVolumeRequest>,
    ) -> Result<Response<GetSkuSalesVolumeResponse>, Status> {
        self.sales_volume(request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn get_supplier_info(
        &self,
        request: Request<GetSupplierInfoRequest>,
    ) -> Result<Response<GetSupplierInfoResponse>, Status> {
        self.suppliers(request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn get_restock_apply_info(
        &self,
        request: Request<GetRestockApplyInfoRequest>,
    ) -> Result<Response<GetRestockApplyInfoResponse>, Status> {
        self.restock_info(request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn get_sku_daily_sales(
        &self,
        request: Request<GetSkuDailySalesRequest>,
    ) -> Result<Response<GetSkuDailySalesResponse>, Status> {
        self.daily_sales(request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn deduct_invetory(&self, request: Request<OrderDetailReq>) -> Result<Response<OrderProductResp>, Status> {
        let call = BranchCall::of(&request)?;
        let outcome = self.deductions.deduct(call.branch(), request.into_inner()).await;
        call.answer(outcome.map_err(BranchError::from))
    }

    async fn deduct_invetory_revert(
        &self,
        request: Request<OrderDetailReq>,
    ) -> Result<Response<OrderProductResp>, Status> {
        let call = BranchCall::of(&request)?;
        let outcome = self.deductions.revert(call.branch(), request.into_inner()).await;
        call.answer(outcome.map_err(BranchError::from))
    }
}

/// The nearest cent; a double that is no price is refused.
fn price(price: f64) -> Result<Money> {
    let cents = (price * 100.0).round();
    // Doubles hold every whole number up to 2⁵³ exactly: more cents than any price has.
    if !cents.is_finite() || cents.abs() > 9_007_199_254_740_992.0 {
        let message = "product_price is not a price: expected a finite number of moderate size";
        return Err(Error::new(ErrorKind::InvalidArgument, "product.add", message).with_context("price", price));
    }
    Ok(Money::from_cents(cents as i64))
}

fn sku_detail(found: SkuDetail) -> GetProductSkuDetailResponse {
    let SkuDetail { level, product_id, .. } = found;
    GetProductSkuDetailResponse {
        id: level.sku_id,
        product_id,
        sku_no: level.sku_no,
        sku_name: level.name,
        spec_value_ids: found.spec_value_ids,
        spec_value_text: level.spec_value_text,
        price: found.price.to_f64(),
        market_price: found.market_price.to_f64(),
        stock: level.stock,
        stock_warn: level.stock_warn,
        sales: found.sales,
        main_image: found.main_image,
        status: level.status,
        created_at: found.created_at,
        updated_at: found.updated_at,
        product: Some(ProductBasicInfo {
            id: product_id,
            product_no: found.product_no,
            product_name: found.product_name,
            main_image: found.product_main_image,
            description: found.product_description,
        }),
        images: found
            .images
            .into_iter()
            .map(|image| SkuImageInfo {
                id: image.id,
                image_url: image.url,
                is_main: image.is_main,
                display_order: image.display_order,
            })
            .collect(),
    }
}

fn sku_threshold(level: SkuLevel, asked: u32) -> SkuInventoryThreshold {
    SkuInventoryThreshold {
        threshold: level.threshold(asked),
        is_sufficient: level.is_sufficient(asked),
        sku_id: level.sku_id,
        sku_no: level.sku_no,
        sku_name: level.name,
        stock: level.stock,
    }
}

fn restock_record(restock: Restock) -> RestockRecord {
    RestockRecord {
        id: restock.id,
        user_id: restock.wish.user_id,
        sku_id: restock.sku_id.cast_unsigned(),
        quantity: restock.wish.quantity,
        reason: restock.wish.reason,
        status: restock.status,
        failed_reason: restock.failed_reason,
        created_at: restock.created_at,
    }
}

fn restock_audit(audit: RestockAudit) -> service::RestockAudit {
    service::RestockAudit {
        id: audit.id,
        restock_id: audit.restock_id,
        audit_user_id: audit.audit_user_id,
        audit_status: audit.status,
        audit_failed_reason: audit.failed_reason,
        created_at: audit.created_at,
        updated_at: audit.updated_at,
    }
}

fn supplier_product(sku_code: &str, supply: Supply) -> SupplierProduct {
    let supplier = supply.supplier;
    SupplierProduct {
        sku_code: sku_code.to_owned(),
        supplier_id: supplier.id,
        supply_price: supply.price.to_f64(),
        min_order_quantity: supply.min_order_quantity,
        is_preferred: supply.is_preferred,
        supplier: Some(service::Supplier {
            id: supplier.id,
            name: supplier.name,
            contact_person: supplier.contact_person,
            phone: supplier.phone,
            email: supplier.email,
            address: supplier.address,
            rating: supplier.rating,
            lead_time_days: supplier.lead_time_days,
            payment_terms: supplier.payment_terms,
        }),
    }
}
