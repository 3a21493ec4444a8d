# What Dataflow's workers run (launch/dataflow.py): Beam's own image, of the Python and Beam of launch/constraints.txt, with
# the project and the versions of its extra beam.
FROM apache/beam_python3.11_sdk:2.77.0
SHELL ["/bin/bash", "-euc"]
COPY . /opt/masksearch
RUN cd /opt/masksearch \
    && sed -n 's/^#beam: *//p' launch/constraints.txt > /tmp/own.txt \
    && (cat /tmp/own.txt; grep -vFf <(sed 's/==.*/==/' /tmp/own.txt) launch/constraints.txt) > /tmp/constraints.txt \
    && pip install --no-cache-dir -c /tmp/constraints.txt '.[beam]'
