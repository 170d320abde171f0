"""Names that vulture takes for unused, with the reason why each stays: ``vulture`` reads this file beside the source.

A new name needs a reason of one of these kinds; code that only tests reach is deleted, or moved to the tests.
"""

# ruff: noqa: B018

# called or read by Python, transformers, tokenizers, PyAV or pickle
__call__, __class__, __dir__, __getattr__, showwarning, find_class, storage_meta, thread_type, pix_fmt
_attn_implementation, _init_weights, architectures, base_model_prefix, config_class, do_normalize, main_input_name
model_input_names, normalizer, post_processor, pre_tokenizer, return_text_replacement_offsets, sub_configs
supports_gradient_checkpointing, valid_kwargs

# fields of published files: a record holds what its file holds
alternatives, anchor_ids, answer_type, correct_guess, dataset, distractor_ids
instance_type, n_objects, nyu40, object_names, question_type, reference_type, times_us

# weights that a checkpoint holds
mask_token

# read by inspect, for the Model Context Protocol
__signature__

# found by name in a table: what vidllm.cli.serving takes from vidllm.serving
over_http

# found by name in a table: the exporters of vidllm.export
write_boxes, write_cameras, write_colmap, write_depth, write_glb, write_movie, write_nerfstudio, write_npz
write_overview, write_page, write_ply, write_rrd, write_tum

# found by name in a table: the builders of vidllm_rooms.world.furniture and .objects
armchair, ball, basket, bed, bench, book, book__standing, bookshelf, bottle, bowl, box, cabinet, ceiling_lamp, chair
clock, coffee_table, cup, curtain, desk, door, dresser, floor_lamp, flower, laptop, mirror, monitor, nightstand
office_chair, picture, pillow, plant, radiator, refrigerator, rug, sofa, stool, stove, suitcase, table, table_lamp
trash_can, tv, vase, wardrobe, washing_machine, window

# found by name in a table: the evaluators of vidllm.evaluation.protocols
PROTOCOLS, VSI, REVSI, SPAR, THREEDSR, MMSI, OPENEQA

# found by name in a table: the verbs of vidllm.cli, the stages of vidllm train
Ask, Describe, Ground, TakeInventory, Measure, Reconstruct, Demo, Info, Import, Evaluate, Export, Shards, Check, Pack
Score, Compare, SeenIn, LabelClips, Calibrate, Serve, Mcp
finetune, train_language_only

# read by name: the weight of a supervision is config.NAME_weight
correspondence_weight, naming_weight, semantic_weight

minloglevel  # a setting of pycolmap
tempdir  # a setting of the standard library's tempfile

# hooks of mkdocs
on_page_content, on_page_markdown

# public: what a user of the library calls
from_original, to_original  # pixels of the film as pixels of the processed frames, and back
with_geometry  # a scene with given geometry, for oracle evaluation
read_config  # the configuration that a run wrote into its folder

# public: one teacher, or one reconstruction network, by itself
load_geometry_teacher, load_language_teacher

# found by name in a table: networks of vidllm.baselines
DepthAnything3, DepthAnything3Metric, MoGe2, ReconstructionOnly

padding_mode, allow_tf32  # settings of torch's convolutions

# stand-ins for modules that the authors' code imports (scripts/record_*.py)
__path__, __package__, pretrained, create_module, enc_embed_dim, text_alignment_head
