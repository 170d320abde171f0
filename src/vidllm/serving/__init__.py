"""Scenes for a browser, for OpenAI clients (``vidllm serve``) and for agents (``vidllm mcp``), over one core.

``core``: videos, scenes, jobs. ``decoding``: videos in processes of their own. ``tools``: what can be asked of a scene.
``web``, ``chat``: HTTP (extra ``serve``). ``agents``: the Model Context Protocol (extra ``mcp``).
"""
