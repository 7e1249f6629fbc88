"""Keys that LiteLLM knows and that mean nothing here, so that a warning can tell them from misspelt ones.

Source: https://docs.litellm.ai/docs/proxy/config_settings
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARAMS = _words(
    """
    api_version aws_access_key_id aws_region_name aws_secret_access_key azure_ad_token
    configurable_clientside_auth_params cooldown_time custom_llm_provider default_api_key_rpm_limit
    default_api_key_tpm_limit drop_params extra_body extra_headers fallbacks guardrails headers
    litellm_credential_name max_budget max_completion_tokens max_file_size_mb max_retries
    max_tokens merge_reasoning_content_in_choices mock_response num_retries organization
    presence_penalty project region_name stop stream stream_timeout tags temperature top_p use_in_pass_through
    use_litellm_proxy user vertex_credentials vertex_location vertex_project
    """
)

MODEL_INFO = _words(
    """
    access_groups base_model created_at created_by db_model health_check_model health_check_timeout
    input_cost_per_token litellm_provider max_input_tokens max_output_tokens max_tokens output_cost_per_token
    supports_function_calling supports_vision team_id team_public_model_name tier updated_at updated_by version
    """
)

ROUTER_SETTINGS = _words(
    """
    allowed_fails allowed_fails_policy assistants_config cache_kwargs cache_responses caching_groups client_ttl
    content_policy_fallbacks context_window_fallbacks cooldown_time debug_level default_fallbacks
    default_max_parallel_requests default_priority disable_cooldowns enable_pre_call_checks enable_tag_filtering
    fallbacks max_fallbacks max_retries model_group_retry_policy num_retries optional_pre_call_checks
    polling_interval provider_budget_config redis_db redis_host redis_password redis_port redis_url retry_after
    retry_policy router_general_settings routing_strategy routing_strategy_args set_verbose stream_timeout
    timeout
    """
)

GENERAL_SETTINGS = _words(
    """
    alert_types alerting alerting_threshold allow_requests_on_db_unavailable allowed_ips allowed_routes
    always_include_stream_usage background_health_checks block_robots completion_model custom_auth
    custom_key_generate database_connection_pool_limit database_connection_timeout database_type database_url
    default_team_disabled disable_adding_master_key_hash_to_db disable_error_logs disable_master_key_return
    disable_reset_budget disable_retry_on_max_parallel_request_limit_error disable_spend_logs enable_jwt_auth
    enforce_user_param enforced_params forward_client_headers_to_llm_api global_max_parallel_requests
    health_check_interval infer_model_from_keys key_management_settings key_management_system litellm_jwtauth
    litellm_key_header_name max_file_size_mb max_parallel_requests max_request_size_mb max_response_size_mb
    maximum_spend_logs_retention_period pass_through_endpoints proxy_batch_write_at
    proxy_budget_rescheduler_max_time proxy_budget_rescheduler_min_time public_routes service_account_settings
    spend_report_frequency store_model_in_db store_prompts_in_spend_logs supported_db_objects ui_access_mode
    use_azure_key_vault use_client_credentials_pass_through_routes use_google_kms use_redis_transaction_buffer
    user_api_key_cache_ttl user_header_name
    """
)

SECTIONS = _words(
    """
    assistant_settings callback_settings credential_list environment_variables files_settings finetune_settings
    guardrails include litellm_settings mcp_servers mcp_tools prompts search_tools vector_store_registry
    """
)
