"""Every kind of adapter against PEFT: built with random numbers on tiny models, merged by both, compared in float32."""
