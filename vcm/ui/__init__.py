"""The Gradio app: `vcm.ui.app` builds it, everything else here is its parts."""
